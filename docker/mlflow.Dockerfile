# syntax=docker/dockerfile:1
# A small image for the MLflow server alone (`mlflow.image` of the chart): no torch, no Ray.
#
#   docker build -f docker/mlflow.Dockerfile -t registry.example.com/trainwright-mlflow:3.17.2 .
#
# Pin the base by digest: --build-arg PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm@sha256:<digest>
ARG PYTHON_IMAGE=docker.io/library/python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS builder
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt docker/requirements-server.txt /build/
RUN pip install --constraint /build/constraints.txt mlflow --requirement /build/requirements-server.txt
RUN python -m venv /opt/sbom && /opt/sbom/bin/pip install cyclonedx-bom==7.2.1 \
    && /opt/sbom/bin/cyclonedx-py environment /opt/venv/bin/python --output-file /opt/venv/sbom.cdx.json

FROM ${PYTHON_IMAGE}
ARG REVISION=unknown
LABEL org.opencontainers.image.title="trainwright-mlflow" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      trainwright.sbom="/opt/venv/sbom.cdx.json" \
      trainwright.sbom.format="CycloneDX"
RUN groupadd --gid 10001 trainwright \
    && useradd --uid 10001 --gid 10001 --create-home --shell /usr/sbin/nologin trainwright
COPY --from=builder /opt/venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MLFLOW_DISABLE_TELEMETRY=true
WORKDIR /home/trainwright
USER 10001:10001
CMD ["mlflow", "server", "--help"]
