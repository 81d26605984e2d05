"""The same from Python as from the command line: plan, submit, and a Run to hold on to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.clusters import open_cluster
from orchestrator.clusters.shared.submitted import recall, remember
from orchestrator.clusters.shared.uploads.send import Uploaded, list_source, place_for, send
from orchestrator.errors import NotFoundError
from orchestrator.handle import Run, storage_of
from orchestrator.planning.plan import Plan
from orchestrator.plans import judge, make_plan, profile_of, tracking_uri_of
from orchestrator.runs import RunStatus, run_id_problem
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import load_profile
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import absolute
from orchestrator.stored_run import CheckpointRun, StoredRun

if TYPE_CHECKING:
    from orchestrator.housekeeping import Pruning, Usage

__all__ = [
    "Run",
    "attach",
    "delete",
    "judge",
    "list_runs",
    "make_plan",
    "prune",
    "stored",
    "submit",
    "tracking_uri_of",
    "upload",
    "usage",
]


def submit(
    job: JobSpec | Plan | str | os.PathLike[str],
    cluster: str | ClusterProfile = "local",
    *,
    base_dir: str | os.PathLike[str] | None = None,
    run_id: str | None = None,
    overrides: Iterable[str] = (),
) -> Run:
    """Start a run and return at once. Arguments as for ``make_plan``; a plan is submitted as it is."""
    profile = profile_of(cluster)
    plan = (
        job
        if isinstance(job, Plan)
        else make_plan(job, profile, base_dir=base_dir, run_id=run_id, overrides=overrides)
    )
    backend = open_cluster(profile)
    backend.submit(backend.render(plan))
    if isinstance(cluster, str):
        remember(plan.run_id, cluster)
    return Run(plan.run_id, backend)


def attach(run_id: str, cluster: str | ClusterProfile | None = None) -> Run:
    """A run that was submitted before. Raises NotFoundError.

    Args:
        run_id: the run.
        cluster: as for ``make_plan``. Default: where it was submitted to from this machine, else ``local``.

    """
    if problem := run_id_problem(run_id):
        raise NotFoundError(f"no run can be called so: {problem}")
    cluster = cluster or recall(run_id)
    backend = open_cluster(profile_of(cluster))
    backend.status(run_id)
    return Run(run_id, backend)


def stored(name: str, cluster: str | ClusterProfile | None = None) -> StoredRun:
    """What can predict, evaluate and be exported: a run, or one of its checkpoints.

    Args:
        name: a run's id, a checkpoint's folder, or a registered model: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS`` in the
            cluster's MLflow.
        cluster: as for ``attach``.

    Raises:
        NotFoundError: there is none.
        InfrastructureError: MLflow does not answer.
    """
    if name.startswith("models:/"):
        from orchestrator.telemetry.registered import checkpoint_of

        return CheckpointRun(checkpoint_of(tracking_uri_of(profile_of(cluster or "local")), name))
    if "/" in name:
        return CheckpointRun(absolute(name, str(Path.cwd())))
    return attach(name, cluster)


def list_runs(cluster: str | ClusterProfile = "local", *, forgotten: bool = False) -> list[RunStatus]:
    """All runs that the cluster still knows, newest first.

    Args:
        cluster: as for ``make_plan``.
        forgotten: also those that it knows no more, of which its storage has records.

    Raises:
        InfrastructureError: the cluster or its storage does not answer; no right to look into a claim.
    """
    backend = open_cluster(profile_of(cluster))
    recorded = backend.forgotten() if forgotten else ()  # first: what is forgotten meanwhile is then in both
    found = backend.list()
    known = {status.run_id for status in found}
    found += [status for status in recorded if status.run_id not in known]
    found.sort(key=lambda status: status.submitted_at, reverse=True)
    _tell_trackers(found)
    return found


def delete(
    run_ids: Iterable[str],
    cluster: str | ClusterProfile | None = None,
    *,
    keep_tracked: bool = False,
    dry_run: bool = False,
) -> None:
    """Delete ended runs: what MLflow has of them, their checkpoints and records, and what their cluster keeps. All are
    looked at before one is touched; what a killed deletion has left is deleted by another.

    Args:
        run_ids: the runs.
        cluster: as for ``attach``.
        keep_tracked: leave them in MLflow.
        dry_run: only look whether they can be deleted.

    Raises:
        SpecError: one has not ended.
        NotFoundError: there is no such run.
        InfrastructureError: MLflow or the storage does not answer, or what reaches that may not be started.
    """
    from orchestrator import housekeeping

    by_cluster: dict[str, list[str]] = {}
    for run_id in dict.fromkeys(run_ids):
        where = recall(run_id) if cluster is None else ""
        by_cluster.setdefault(where, []).append(run_id)
    found = [
        (open_cluster(load_profile(where) if cluster is None else profile_of(cluster)), ids)
        for where, ids in by_cluster.items()
    ]
    for backend, ids in found:
        housekeeping.refuse_undeletable(backend, ids)
    for backend, ids in () if dry_run else found:
        housekeeping.delete(backend, ids, keep_tracked=keep_tracked)


def usage(cluster: str | ClusterProfile = "local") -> Usage:
    """Bytes in a cluster's storage: of each run, of what runs share, of MLflow where its files are there as well.
    Raises InfrastructureError where this process can't reach the storage.
    """
    from orchestrator import housekeeping

    return housekeeping.usage(open_cluster(profile_of(cluster)))


def prune(
    cluster: str | ClusterProfile = "local",
    *,
    older_than_seconds: float,
    keep_best: bool = False,
    dry_run: bool = False,
) -> Pruning:
    """Delete what is old: runs that ended so long ago, with all that ``delete`` deletes; and, while no run lives, what was
    prepared of data so long ago, which is prepared again where it is needed.

    Args:
        cluster: as for ``make_plan``.
        older_than_seconds: how long ago.
        keep_best: of these runs remove all checkpoints but the best, and nothing else.
        dry_run: only say what would be removed.

    Raises:
        InfrastructureError: as ``delete``.
    """
    from orchestrator import housekeeping

    backend = open_cluster(profile_of(cluster))
    found = housekeeping.pruning(backend, before=time.time() - older_than_seconds, keep_best=keep_best)
    if not dry_run:
        housekeeping.prune(backend, found)
    return found


def upload(
    source: str | os.PathLike[str],
    cluster: str | ClusterProfile,
    *,
    to: str | None = None,
    replace: bool = False,
    on_sent: Callable[[int, int], None] | None = None,
) -> Uploaded:
    """Put a folder or a file where the jobs of a cluster read it: under its name there is nothing before all is there. Of one
    that was cut off, a claim or a shared folder keeps what has arrived, and the same call goes on with it.

    Args:
        source: folder or file of this machine.
        cluster: as for ``make_plan``.
        to: a path below ``data/`` in the cluster's storage, or a whole one in there or in a claim that jobs may write to.
            Default: the source's name.
        replace: whether what is there under the name gives way.
        on_sent: called with the bytes that are there and those of all.

    Raises:
        SpecError: the name is taken, or the folder can't be sent: a link out of it, say.
        NotFoundError: there is no such folder or file.
        InfrastructureError: no right, no room, or the connection was lost.
    """
    profile, at = profile_of(cluster), Path(source).expanduser().absolute()
    files = list_source(at)
    place = place_for(profile, at.name, to)
    target = open_cluster(profile).upload_target(place, replace=replace)
    try:
        sent = send(files, target, on_sent or (lambda done, total: None))
    finally:
        target.close()
    total = sum(file.size_bytes for file in files.values())
    return Uploaded(path=place, files=len(files), bytes=total, sent_bytes=sent)


def _tell_trackers(found: Iterable[RunStatus]) -> None:
    """As ``Run.status`` does, for many. One look at each run's record: so only where records lie on a disk of this machine; and
    no more of them once a tracker did not answer.
    """
    from orchestrator.telemetry.closing import close_quietly

    for status in found:
        storage = storage_of(status)
        if (
            status.state.is_final
            and Path(storage or ".", "tracking").is_dir()
            and not close_quietly(storage, status)
        ):
            return
