"""Which cluster a run was sent to from this machine, so that ``status RUN`` and the like need not be told again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from orchestrator.spec.load import home
from orchestrator.storage import store_at

HERE = "local"
"""The profile of runs that nothing is remembered of."""


def remember(run_id: str, cluster: str) -> None:
    """Keep a profile's name or file for a run. A home that can't be written is no reason for a submission to fail."""
    if cluster == HERE:
        return
    is_file = "/" in cluster or cluster.endswith((".yaml", ".yml"))
    reference = str(Path(cluster).resolve()) if is_file else cluster
    with suppress(OSError):
        store_at(str(_folder())).write(run_id, reference.encode())


def recall(run_id: str) -> str:
    """The profile's name or file."""
    with suppress(OSError, ValueError):
        path = _folder() / run_id
        if path.parent == _folder():  # an id is a name, not a way out of the folder
            return path.read_text(encoding="utf-8").strip() or HERE
    return HERE


def forget(run_id: str) -> None:
    """Remember nothing of a run any more."""
    with suppress(OSError):
        store_at(str(_folder())).remove(run_id)


def _folder() -> Path:
    return home() / "submitted"
