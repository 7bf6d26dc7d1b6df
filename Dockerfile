# One image for the backend and the worker. CPU build of torch by default; for a GPU:
#   docker compose build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu126
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 OMP_WAIT_POLICY=passive

RUN useradd --create-home --uid 10001 pixbal && mkdir -p /data && chown pixbal:pixbal /data
WORKDIR /app
COPY requirements/ requirements/
RUN pip install --index-url "$TORCH_INDEX" "torch>=2.6" "torchvision>=0.21" \
 && pip install -r requirements/project.txt \
 && (python requirements/check_opencv.py \
     || pip install --force-reinstall --no-deps opencv-contrib-python-headless==4.12.0.88)
COPY pyproject.toml README.md LICENSE ./
COPY label_config/ label_config/
COPY training/ training/
COPY ml_backend/ ml_backend/
RUN pip install --no-deps .

USER pixbal
ENV PIXBAL_HOME=/data PIXBAL_HOST=0.0.0.0 PIXBAL_PORT=9090
VOLUME /data
EXPOSE 9090
CMD ["pixbal", "serve"]
