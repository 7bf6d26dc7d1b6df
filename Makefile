# Set-up, demonstration and tests. Every virtual environment is kept while its lock is unchanged.
PYTHON ?= python3.11
ifeq (, $(shell command -v $(PYTHON) 2>/dev/null))
PYTHON := python3
endif
VENV := .venv
LS_VENV := .venv-label-studio

.PHONY: demo up test reliability lint setup browser clean

demo: $(VENV)/.ready $(LS_VENV)/.ready  ## two whole rounds in a real Label Studio, then a clean stop
	$(VENV)/bin/pixbal demo $(ARGS)

up: $(VENV)/.ready $(LS_VENV)/.ready  ## the same, and everything is left running
	$(VENV)/bin/pixbal demo --keep $(ARGS)

test: setup browser lint  ## every test
	$(VENV)/bin/python -m pytest $(ARGS)

reliability: setup browser  ## the tests of every promise, loads at full size; writes docs/reliability.*
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --reliability=docs $(ARGS)

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

setup: $(VENV)/.ready $(LS_VENV)/.ready

browser:  ## Debian's Chromium, for the tests that work in a browser
	@command -v chromium >/dev/null 2>&1 || { \
	  echo "installing Chromium from Debian's packages"; \
	  if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; \
	  else sudo apt-get update -qq && sudo apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core >/dev/null; fi; }

$(VENV)/.ready: requirements/project.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements/project.txt
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	$(VENV)/bin/python requirements/check_opencv.py || \
	  $(VENV)/bin/pip install --quiet --disable-pip-version-check --force-reinstall --no-deps opencv-contrib-python-headless==4.12.0.88
	$(VENV)/bin/python requirements/check_opencv.py
	touch $@

$(LS_VENV)/.ready: requirements/label-studio.txt
	$(PYTHON) -m venv $(LS_VENV)
	$(LS_VENV)/bin/pip install --quiet --disable-pip-version-check -r requirements/label-studio.txt
	touch $@

clean:  ## remove what the demonstration and the tests left, keep the virtual environments
	rm -rf demo-data demo.json .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
