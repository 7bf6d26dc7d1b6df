# One image for the backend and the worker. CPU build of torch by default; docker-compose.yml builds
# the GPU worker's image with another TORCH_INDEX.
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 OMP_WAIT_POLICY=passive

# A new named volume takes over the owner of the folder that it covers.
RUN useradd --create-home --uid 10001 pixbal \
 && mkdir -p /data /label-studio/files \
 && chown pixbal:pixbal /data /label-studio/files
WORKDIR /src
COPY requirements/ requirements/
RUN pip install --index-url "$TORCH_INDEX" "torch>=2.6" "torchvision>=0.21" \
 && pip install --require-hashes --no-deps -r requirements/project.lock \
 && python requirements/check_opencv.py
COPY pyproject.toml README.md LICENSE ./
COPY label_config/ label_config/
COPY training/ training/
COPY ml_backend/ ml_backend/
RUN pip install --no-deps --no-build-isolation .
# Empty: Python looks in the folder it is started in, and would take the sources for what is installed.
WORKDIR /app

USER pixbal
# HF_HOME: the user's own folder is read-only, and downloaded encoders must be kept somewhere.
ENV PIXBAL_HOME=/data PIXBAL_HOST=0.0.0.0 PIXBAL_PORT=9090 HF_HOME=/data/huggingface
VOLUME /data
EXPOSE 9090
CMD ["pixbal", "serve"]
