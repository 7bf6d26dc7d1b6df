# Set-up, demonstration and tests. Every virtual environment is kept while its lock is unchanged.
PYTHON ?= python3.11
ifeq (, $(shell command -v $(PYTHON) 2>/dev/null))
PYTHON := python3
endif
VENV := .venv
LS_VENV := .venv-label-studio

.PHONY: demo up test reliability sabotage lint setup browser audit clean

demo: $(VENV)/.ready $(LS_VENV)/.ready  ## two whole rounds in a real Label Studio, then a clean stop
	$(VENV)/bin/pixbal demo $(ARGS)

up: $(VENV)/.ready $(LS_VENV)/.ready  ## the same, and everything is left running
	$(VENV)/bin/pixbal demo --keep $(ARGS)

test: setup browser lint  ## every test
	$(VENV)/bin/python tests/run_all.py $(ARGS)

reliability: setup browser  ## the tests of every promise, loads at full size; writes docs/reliability.*
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --reliability=docs $(ARGS)

sabotage: setup browser  ## break every promise on purpose, see its tests fail; writes docs/sabotage.*
	$(VENV)/bin/python tests/sabotage_run.py $(ARGS)

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

# Which build of PyTorch fits depends on the machine; all else is what the lock files say, by hash.
TORCH ?= "torch>=2.6" "torchvision>=0.21"
PIP := pip install --quiet --disable-pip-version-check
LOCKED := $(PIP) --require-hashes --no-deps

$(VENV)/.ready: requirements/project.lock requirements/dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/$(PIP) $(TORCH)
	$(VENV)/bin/$(LOCKED) -r requirements/project.lock -r requirements/dev.lock
	$(VENV)/bin/$(PIP) --no-deps --no-build-isolation -e .
	$(VENV)/bin/python requirements/check_opencv.py
	touch $@

$(LS_VENV)/.ready: requirements/label-studio.lock
	$(PYTHON) -m venv $(LS_VENV)
	$(LS_VENV)/bin/$(LOCKED) -r requirements/label-studio.lock
	touch $@

audit: $(VENV)/.ready  ## known holes in what the lock files say; asks pypi.org
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/$(PIP) pip-audit==2.10.1
	for lock in project dev torch label-studio; do \
	  .venv-audit/bin/pip-audit --require-hashes --disable-pip -r requirements/$$lock.lock || exit 1; done

clean:  ## remove what the demonstration and the tests left, keep the virtual environments
	rm -rf demo-data demo.json .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
