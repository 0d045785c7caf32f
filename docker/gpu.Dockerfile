# docker build -f docker/gpu.Dockerfile -t ssd-train-gpu .
# docker run --rm --gpus all -v "$PWD":/data ssd-train-gpu verify --devices gpu:0
FROM nvidia/cuda:11.2.2-cudnn8-runtime-ubuntu20.04

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1 DEBIAN_FRONTEND=noninteractive

# Python 3.8 and two libraries of MXNet. Ubuntu's updates replace the packages, so that their versions cannot be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 libquadmath0 python3 python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH

# The tested environment with MXNet for CUDA 11.2 in place of that for CPUs, and opencv-python-headless, which needs no libGL.
WORKDIR /opt/ssd_train
COPY requirements.txt ./
COPY requirements requirements
RUN sed -i 's/^mxnet==/mxnet-cu112==/' requirements.txt \
    && pip install pip==25.0.1 \
    && pip install --no-deps -r requirements.txt -r requirements/onnx.txt -r requirements/s3.txt -r requirements/serve.txt

COPY pyproject.toml setup.py README.md LICENSE ./
COPY entry_point entry_point
COPY src src
RUN pip install --no-deps --no-build-isolation . \
    && useradd --create-home --uid 1000 user
USER 1000
WORKDIR /data
ENTRYPOINT ["ssd-train"]
CMD ["--help"]
