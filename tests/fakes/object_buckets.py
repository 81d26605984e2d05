"""Buckets on local servers, as S3 and as GCS, and the environment that leads there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from gcs_server import gcs_server

from orchestrator.storage.arrow import object_store


@contextmanager
def bucket_at(scheme: str, name: str) -> Iterator[str]:
    """The URI of an empty bucket.

    Args:
        scheme: ``s3`` or ``gs``.
        name: the bucket's.
    """
    serve = _s3 if scheme == "s3" else _gcs
    object_store.cache_clear()
    with pytest.MonkeyPatch.context() as patch, serve(name, patch):
        yield f"{scheme}://{name}"
    object_store.cache_clear()


@contextmanager
def _gcs(name: str, patch: pytest.MonkeyPatch) -> Iterator[None]:
    with gcs_server(name) as server:
        patch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", server.address)
        yield


@contextmanager
def _s3(name: str, patch: pytest.MonkeyPatch) -> Iterator[None]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    patch.setenv("AWS_ACCESS_KEY_ID", "test")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket=name)
    client.close()
    yield
    server.stop()
