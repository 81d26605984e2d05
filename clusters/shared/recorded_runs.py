"""Runs as their records in a cluster's storage tell them: also those that the cluster itself has forgotten."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator.clusters.shared.launches import folder_of, refuse_deleted
from orchestrator.clusters.shared.run_records import remote_record, storage_record
from orchestrator.clusters.shared.stores import ExplainedStore, RemoteStore
from orchestrator.errors import RecordError, SpecError
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord, plan_name
from orchestrator.runs import EndReason, RunState, RunStatus, run_id_problem
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import Store

log = logging.getLogger(__name__)

_READERS = 16
"""Records read at once."""


class RecordedRuns:
    """What a cluster's storage has of its runs. Every method raises InfrastructureError where that does not answer."""

    def __init__(self, profile: ClusterProfile, run: Callable[[list[str]], str] | None = None) -> None:
        """
        Args:
            profile: of the cluster.
            run: as ``RemoteStore``'s, where only the cluster reaches the storage. Default: this process does.

        """
        self._profile = profile
        self._root = str(profile.storage).rstrip("/")
        self._run = run

    def record(self, run_id: str) -> RunRecord:
        """A run's records. Raises NotFoundError where no run can be called so."""
        storage = f"{self._root}/{folder_of(run_id)}"
        return storage_record(storage) if self._run is None else remote_record(storage, self._run)

    def status(self, run_id: str, launch: int) -> RunStatus | None:
        """What a launch says of itself; None where that is nothing. Of a damaged record there is a warning."""
        return next(_statuses([self._told(run_id, launch)]), None)

    def forgotten(self, run_id: str) -> RunStatus | None:
        """How a run stands that the cluster knows no more; None where the storage has none."""
        found = next(_statuses([self._told(run_id, None)]), None)
        return found and forgotten_status(found, self._profile)

    def all_forgotten(self) -> list[RunStatus]:
        """As ``forgotten``, all runs of which there are records, in no order."""
        if self._run is None:
            told = told_statuses(self._root)
        else:
            told = RemoteStore(self._root, self._run).ask("statuses", "runs")
        return [forgotten_status(status, self._profile) for status in _statuses(told)]

    def plan(self, run_id: str, launch: int) -> Plan:
        """The plan of a launch, or of the last before it that has stored one. Raises SpecError where there is none."""
        record = self.record(run_id)
        plans = (record.section(plan_name(number), Plan) for number in range(launch, 0, -1))
        if (found := next((plan for plan in plans if plan is not None), None)) is None:
            raise SpecError(
                f"run {run_id} has no plan in {record.storage}: it ended before its workers were started; submit the job again"
            )
        return found

    def to_resume(self, status: RunStatus) -> Plan:
        """The plan with which a forgotten run can go on. Raises SpecError where it can't: it lives, perhaps, or is being
        deleted, or has no plan.
        """
        if not status.state.is_final:
            raise SpecError(f"run {status.run_id} is {status.state}: {status.message}; resume it there")
        refuse_deleted(self.record(status.run_id), status.run_id)
        return self.plan(status.run_id, status.launch)

    def end(self, status: RunStatus) -> None:
        """Write the end of one that was lost; a driver of it that lives on writes nothing more."""
        self.record(status.run_id).taken_over(status.launch).end(status)

    def _told(self, run_id: str, launch: int | None) -> dict[str, Any]:
        folder = folder_of(run_id)
        if self._run is None:
            return told_status(f"{self._root}/{folder}", launch)
        return dict(RemoteStore(self._root, self._run).ask("status", folder, str(launch or "")))


def recorded_statuses(store: Store) -> dict[str, RunStatus]:
    """How all runs in a cluster's storage stand by their own records, by their ids. Of a damaged one there is a warning."""
    told = store.ask("statuses", "runs") if isinstance(store, RemoteStore) else told_statuses(store.root)
    return {status.run_id: status for status in _statuses(told)}


def _statuses(told: Iterable[dict[str, Any]]) -> Iterator[RunStatus]:
    for one in told:
        if problem := one.get("problem"):
            log.warning("left out: %s", problem)
        elif one["status"]:
            yield RunStatus.model_validate(one["status"])


def told_status(storage: str, launch: int | None = None) -> dict[str, Any]:
    """As JSON carries it: how a launch (default: the newest) stands by its own record, as of the cluster that it was planned
    for; or what is wrong with that.

    Args:
        storage: the run's folder.
        launch: its number.

    """
    try:
        record = storage_record(storage)
        status = record.status(launch)
        plan = record.section(plan_name(status.launch), Plan) if status else None
    except RecordError as error:
        return {"problem": str(error)}
    if status is None:
        return {"status": None}
    status = status.on(plan.cluster if plan else "").with_urls({"checkpoints": f"{storage}/checkpoints"})
    return {"status": status.model_dump(mode="json")}


def told_statuses(root: str) -> list[dict[str, Any]]:
    """Of all runs in a cluster's storage."""
    names = ExplainedStore(root).list("runs")
    with ThreadPoolExecutor(_READERS) as readers:
        return list(
            readers.map(told_status, (f"{root}/runs/{one}" for one in names if not run_id_problem(one)))
        )


def forgotten_status(record: RunStatus, profile: ClusterProfile) -> RunStatus:
    """How a launch stands that its cluster has forgotten, from its own record. Where that has no end it was lost; unless it was
    planned for another cluster, which may run it. Pure.
    """
    if record.state.is_final:
        return record.on(profile.name)
    if record.cluster not in ("", profile.name):
        return record.saying(
            f"its own record says so; it was submitted to cluster {record.cluster}, which may run it"
        )
    return record.on(profile.name).ended(
        RunState.FAILED,
        EndReason.DRIVER_LOST,
        f"cluster {profile.name} has forgotten the run, and it wrote no end; trainwright resume {record.run_id} goes on"
        " with it from its storage",
        ended_at=None,
    )
