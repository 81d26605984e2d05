"""What runs have left in a cluster's storage: counted, pruned, deleted. Looking and acting are apart, so that a person is
shown what would go before it goes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

from orchestrator.checkpoint.retention import all_but_the_best, remove
from orchestrator.clusters.base import Cluster
from orchestrator.clusters.shared.launches import folder_of, refuse_living
from orchestrator.clusters.shared.recorded_runs import recorded_statuses
from orchestrator.clusters.shared.submitted import forget
from orchestrator.errors import NotFoundError
from orchestrator.runs import RunStatus, run_id_problem
from orchestrator.section import Section
from orchestrator.storage import StoredFile
from orchestrator.telemetry.forgetting import delete_tracked
from orchestrator.telemetry.spool import Spool

_ENTRY = re.compile(r"cache/[^/]+/[^/]+")


class RunUsage(Section):
    """Bytes of one run."""

    run_id: str
    """The run."""
    state: str
    """How it stands; empty where nobody knows."""
    ended_at: float | None
    """Seconds since the epoch."""
    checkpoint_bytes: int
    """Of all its checkpoints."""
    other_bytes: int
    """Records, logs, and what is kept for MLflow."""


class Usage(Section):
    """Bytes in a cluster's storage."""

    runs: tuple[RunUsage, ...]
    """The largest first."""
    cache_bytes: int
    """What was prepared of data, shared by runs."""
    tracking_bytes: int
    """MLflow's database and files, where they lie in the same home."""

    @property
    def total_bytes(self) -> int:
        """Of all."""
        return (
            sum(run.checkpoint_bytes + run.other_bytes for run in self.runs)
            + self.cache_bytes
            + self.tracking_bytes
        )


class Pruning(Section):
    """What is old enough to go."""

    runs: tuple[str, ...]
    """Runs of which all goes."""
    checkpoints: tuple[str, ...]
    """Folders of single checkpoints, relative to the storage."""
    cached: tuple[str, ...]
    """Files of the cache, relative to the storage."""
    bytes: int
    """Of all these, without what MLflow has."""


def refuse_undeletable(cluster: Cluster, run_ids: Iterable[str]) -> None:
    """Raises SpecError for a run that lives, NotFoundError where there is nothing of it."""
    for run_id in run_ids:
        try:
            refuse_living(cluster.status(run_id))
        except (
            NotFoundError
        ):  # its cluster may have forgotten it, or its deletion have been killed near its end
            if run_id_problem(run_id) or run_id not in cluster.storage().list("runs"):
                raise


def delete(cluster: Cluster, run_ids: Sequence[str], *, keep_tracked: bool = False) -> None:
    """Delete runs: in MLflow first, as their records say what they are called there. Raises as ``sdk.delete``."""
    if not keep_tracked:
        delete_tracked([_spool(cluster, run_id) for run_id in run_ids])
    for run_id in run_ids:
        cluster.delete(run_id)
        forget(run_id)


def usage(cluster: Cluster) -> Usage:
    """See ``sdk.usage``."""
    store = cluster.storage()
    checkpoints: dict[str, int] = defaultdict(int)
    others: dict[str, int] = defaultdict(int)
    for file in store.files("runs"):
        _, run_id, *inside = file.path.split("/")
        if inside:
            (checkpoints if inside[0] == "checkpoints" else others)[run_id] += file.size_bytes
    statuses = _statuses(cluster, {**checkpoints, **others})
    runs = []
    for run_id in {**checkpoints, **others}:
        status = statuses.get(run_id)
        runs.append(
            RunUsage(
                run_id=run_id,
                state=str(status.state) if status else "",
                ended_at=status.ended_at if status else None,
                checkpoint_bytes=checkpoints[run_id],
                other_bytes=others[run_id],
            )
        )
    return Usage(
        runs=tuple(sorted(runs, key=lambda run: (-run.checkpoint_bytes - run.other_bytes, run.run_id))),
        cache_bytes=_bytes(store.files("cache")),
        tracking_bytes=_bytes(store.files("mlartifacts")) + (store.size("mlflow.db") or 0),
    )


def pruning(cluster: Cluster, *, before: float, keep_best: bool) -> Pruning:
    """What ``prune`` would remove.

    Args:
        cluster: whose storage is looked at.
        before: seconds since the epoch; what has ended, or was made for the cache, before that is old.
        keep_best: of old runs remove all checkpoints but the best, instead of all.

    """
    store = cluster.storage()
    statuses = _statuses(cluster, [name for name in store.list("runs") if not run_id_problem(name)])
    old = sorted(run_id for run_id, status in statuses.items() if _ended_before(status, before))
    checkpoints: list[str] = []
    if keep_best:
        for run_id in old:
            folder = f"{folder_of(run_id)}/checkpoints"
            checkpoints += [f"{folder}/{name}" for name in all_but_the_best(cluster.storage(folder))]
    cached = _old_entries(store.files("cache"), before, statuses.values())
    going = tuple(f"{one}/" for one in (checkpoints if keep_best else map(folder_of, old)))
    stored = store.files("runs") if going else ()
    return Pruning(
        runs=() if keep_best else tuple(old),
        checkpoints=tuple(checkpoints),
        cached=tuple(file.path for file in cached),
        bytes=_bytes(file for file in stored if file.path.startswith(going)) + _bytes(cached),
    )


def prune(cluster: Cluster, found: Pruning) -> None:
    """Remove what was found."""
    store = cluster.storage()
    for path in found.checkpoints:
        folder, _, name = path.rpartition("/")
        remove(cluster.storage(folder), name)
    if found.runs:
        delete(cluster, found.runs)
    for path in found.cached:
        store.remove(path)


def _old_entries(
    files: Sequence[StoredFile], before: float, statuses: Iterable[RunStatus]
) -> list[StoredFile]:
    """Entries of the cache that were made before. Whoever wants one makes it again, but a run that lives may be reading
    any of them.
    """
    if any(not status.state.is_final for status in statuses):
        return []
    return [file for file in files if _ENTRY.fullmatch(file.path) and file.changed < before]


def _ended_before(status: RunStatus, moment: float) -> bool:
    return status.state.is_final and status.ended_at is not None and status.ended_at < moment


def _statuses(cluster: Cluster, run_ids: Iterable[str]) -> dict[str, RunStatus]:
    """Of all runs: as the cluster knows them; where it has forgotten one of these, that as its own record says."""
    known = {status.run_id: status for status in cluster.list()}
    if all(run_id in known for run_id in run_ids):
        return known
    return {**recorded_statuses(cluster.storage()), **known}


def _spool(cluster: Cluster, run_id: str) -> Spool:
    store = cluster.storage(folder_of(run_id))
    return Spool(store.root, store)


def _bytes(files: Iterable[StoredFile]) -> int:
    return sum(file.size_bytes for file in files)
