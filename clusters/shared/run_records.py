"""A run's records, read and written from outside the cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from orchestrator.clusters.shared.stores import ExplainedStore, RemoteStore
from orchestrator.records import RunRecord
from orchestrator.storage import is_uri


def storage_record(storage: str) -> RunRecord:
    """Records in storage that this process reaches: a path, ``s3://`` or ``gs://``.

    Raises InfrastructureError, as do its methods, where the storage does not answer.
    """
    return RunRecord(storage, ExplainedStore(storage))


def remote_record(storage: str, run: Callable[[list[str]], str]) -> RunRecord:
    """Records that only the cluster reaches; ``run`` is as ``RemoteStore``'s."""
    return RunRecord(storage, RemoteStore(storage, run))


def is_reachable_from_here(storage: str) -> bool:
    """Whether this process can use a profile's storage itself: an object store, or a folder that is there."""
    return is_uri(storage) or Path(storage).is_dir()
