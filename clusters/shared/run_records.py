"""A run's records, read and written from outside the cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.clusters.shared.stores import ExplainedStore, RemoteStore
from orchestrator.errors import RecordError
from orchestrator.records import RunRecord
from orchestrator.storage import is_uri

log = logging.getLogger(__name__)


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


@contextmanager
def unreadable_left_out() -> Iterator[None]:
    """One damaged or foreign record is a line of warning, and no reason to show nothing of all the others."""
    try:
        yield
    except RecordError as error:
        log.warning("left out: %s", error)
