"""What is checked on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from orchestrator.clusters.doctor.checks import Check, check_mlflow, check_storage, mlflow_uri, passed, warned
from orchestrator.section import format_bytes
from orchestrator.spec.load import home
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import is_uri

_SMALL_DISK_BYTES = 5 * 10**9
_SMALL_SHARED_MEMORY_BYTES = 256 * 10**6


def local_checks(profile: ClusterProfile) -> Iterator[Check]:
    """Disk, shared memory, storage and MLflow, from here."""
    folder = profile.storage or str(home())
    disk = Path("/") if is_uri(folder) else _existing(Path(folder))
    free = shutil.disk_usage(disk).free
    if free < _SMALL_DISK_BYTES:
        yield warned(
            "disk", f"{format_bytes(free)} free at {disk}", "make room, or set TRAINWRIGHT_HOME elsewhere"
        )
    else:
        yield passed("disk", f"{format_bytes(free)} free at {disk}")
    shared = shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0
    if shared < _SMALL_SHARED_MEMORY_BYTES:
        yield warned(
            "shared memory",
            f"{format_bytes(shared)} free at /dev/shm",
            "give /dev/shm more (docker run --shm-size=2g); Ray uses slow files instead",
        )
    else:
        yield passed("shared memory", f"{format_bytes(shared)} free at /dev/shm")
    yield check_storage(folder)
    yield check_mlflow(mlflow_uri(profile) or f"sqlite:///{home()}/mlflow.db")


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
