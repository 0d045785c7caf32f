# docker build -f docker/cpu.Dockerfile -t ssd-train .
# docker run --rm -v "$PWD":/data ssd-train --train images --labels output.manifest
FROM python:3.11-slim-bookworm

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

# Two libraries of MXNet. Debian's point releases replace the packages, so that their versions cannot be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 libquadmath0 \
    && rm -rf /var/lib/apt/lists/*

# The tested environment, with opencv-python-headless, which needs no libGL.
WORKDIR /opt/ssd_train
COPY requirements.txt ./
COPY requirements requirements
RUN pip install --no-deps -r requirements.txt -r requirements/onnx.txt -r requirements/s3.txt -r requirements/serve.txt

COPY pyproject.toml setup.py README.md LICENSE ./
COPY entry_point entry_point
COPY src src
RUN pip install --no-deps --no-build-isolation . \
    && useradd --create-home --uid 1000 user
USER 1000
WORKDIR /data
ENTRYPOINT ["ssd-train"]
CMD ["--help"]
