"""Environment variables that trainwright, its images or a cluster set: another value would break a job without a word."""

from __future__ import annotations

from collections.abc import Iterable

_NAMES = frozenset(
    {
        "HOME",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_USERNAME",
        "PATH",
        "PYTHONPATH",
        "PYTHONSTARTUP",
    }
)
_OF_PROCESSES = ("RAY_", "TRAINWRIGHT_")
"""Begin the names of those that Ray and trainwright hand from process to process; on a node of its own Ray takes some as its
settings."""


def refuse_reserved(where: str, names: Iterable[str], *, of_nodes: bool = False) -> None:
    """Raises ValueError for the first that may not be set.

    Args:
        where: the field that has them.
        names: of variables.
        of_nodes: whether they are those of a node's pods, before Ray starts there.

    """
    for name in names:
        if not name.replace("_", "a").isalnum() or name[:1].isdigit():
            raise ValueError(f"{where}: {name[:40]!r} is not a name of an environment variable")
        if name in _NAMES or (name.startswith(_OF_PROCESSES) and not of_nodes):
            raise ValueError(f"{where}.{name} is set by trainwright or the cluster; take it out")
