"""This machine: a detached driver process with a Ray instance of its own for each run.

A run lives in ``<home>/runs/<run id>/``, laid out as ``orchestrator.records`` says. The driver outlives the command
that started it. What a killed driver leaves behind is cleared by the next command that looks at the run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.clusters.base import Request, Revise
from orchestrator.clusters.local.lock import NAME as LOCK
from orchestrator.clusters.local.lock import locked, locked_if_free
from orchestrator.clusters.local.processes import DriverProcess
from orchestrator.clusters.local.request import plan_to_process
from orchestrator.clusters.local.status import (
    half_deleted,
    has_workers,
    lost,
    never_started,
    newest_lines,
    pending,
)
from orchestrator.clusters.shared.driver_command import DRIVER
from orchestrator.clusters.shared.launches import (
    next_launch,
    refuse_another_job,
    refuse_deleted,
    refuse_living,
    refuse_nothing_left,
)
from orchestrator.clusters.shared.log_lines import GrowingFile, some_lines
from orchestrator.clusters.shared.progress import with_progress
from orchestrator.clusters.shared.run_records import storage_record, unreadable_left_out
from orchestrator.clusters.shared.stores import ExplainedStore
from orchestrator.clusters.shared.uploads.target import UploadTarget
from orchestrator.errors import InfrastructureError, NotFoundError, SpecError
from orchestrator.gpus import visible_gpus
from orchestrator.planning.plan import Plan
from orchestrator.private import own_folder
from orchestrator.records import RunRecord, plan_name
from orchestrator.runs import RunState, RunStatus, run_id_problem
from orchestrator.spec.job import JobSpec
from orchestrator.spec.load import home
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import Store, store_at

log = logging.getLogger(__name__)

_FOLLOW_SECONDS = 0.1


class LocalCluster:
    """Runs on this machine.

    Args:
        profile: Of kind local.
        driver: For tests: what Python runs in the driver's place, given the driver's arguments.
    """

    def __init__(self, profile: ClusterProfile, driver: Sequence[str] = DRIVER) -> None:
        self.profile = profile
        self._driver = driver
        self._runs = Path(profile.storage) / "runs" if profile.storage else home() / "runs"

    def render(self, plan: Plan) -> Request:
        """The driver's command. Raises ResourcesError where this machine has no such GPUs."""
        body = plan_to_process(plan, 1, self._driver)
        return Request(kind="process", run_id=plan.run_id, body=body, plan=plan)

    def submit(self, request: Request) -> RunStatus:
        """Start the driver, unless this run was submitted before.

        Raises:
            SpecError: another job has this id, or the plan was made for runs that lie elsewhere.

        """
        plan = request.plan
        if Path(plan.storage) != self._runs / plan.run_id:
            raise SpecError(
                f"the plan puts run {plan.run_id} in {plan.storage}, but the runs of cluster {self.profile.name} are in"
                f" {self._runs}; make the plan for this cluster"
            )
        with locked(self._runs / plan.run_id):
            refuse_deleted(storage_record(plan.storage), plan.run_id)
            store = storage_record(plan.storage).store
            if not store.create(plan_name(1), plan.model_dump_json(indent=2).encode()):
                refuse_another_job(plan, self._plan(plan.run_id, 1))
            if not self._was_launched(plan.run_id):
                self._launch(plan, 1, request.body)
        return self.status(plan.run_id)

    def resume(self, run_id: str, revise: Revise | None = None) -> RunStatus:
        """Launch an ended run again, where it is found now."""
        self._state(run_id)  # a lost driver has its end before the lock is held
        with locked(self._runs / run_id):
            refuse_deleted(self._record(run_id), run_id)
            status = self.status(run_id)
            launch = next_launch(status)
            plan = self._plan(run_id, launch - 1)
            if revise is not None:
                plan = revise(plan)
            refuse_nothing_left(status, plan)
            has_begun = self._record(run_id).newest_driver(status.launch) > 0
            before = None if has_begun else self._record(run_id).status(status.launch)
            self._launch(plan, launch, plan_to_process(plan, launch, self._driver), before)
        return self.status(run_id)

    def status(self, run_id: str) -> RunStatus:
        """How it stands, and how far its output says that it has come."""
        return self._with_output(self._state(run_id))

    def plan(self, run_id: str) -> Plan:
        """From the run's folder."""
        return self._plan(run_id, max(1, self._record(run_id).newest_launch()))

    def list(self) -> list[RunStatus]:
        """All runs of the home, newest first. Of those that have ended, what their records say."""
        found = []
        for run_id in self._run_ids():
            with contextlib.suppress(NotFoundError), unreadable_left_out():  # deleted meanwhile, or damaged
                status = self._state(run_id)
                found.append(self._placed(status) if status.state.is_final else self._with_output(status))
        return sorted(found, key=lambda status: status.submitted_at, reverse=True)

    def forgotten(self) -> Sequence[RunStatus]:
        """None: what it knows is what its storage has."""
        return ()

    def logs(self, run_id: str, *, follow: bool = False, rank: int | None = None) -> Iterator[str]:
        """Lines of the driver, or of one rank, over all launches and attempts."""
        self._record(run_id)
        if rank is None:
            return self._lines(run_id, "launches/*/driver.log", follow=follow)
        return some_lines(self._lines(run_id, f"logs/attempt-*/rank-{rank}.log", follow=follow), run_id, rank)

    def stop(self, run_id: str, *, now: bool = False) -> RunStatus:
        """Ask for a graceful stop, or end the driver and all it started."""
        status = self.status(run_id)
        if status.state.is_final:
            return status
        self._record(run_id).ask_to_stop(status.launch)
        process = self._process(run_id, status.launch)
        if now:
            process.kill()
        elif status.state in (RunState.PENDING, RunState.STARTING) and not has_workers(process.log):
            process.terminate()
        return self.status(run_id)

    def delete(self, run_id: str) -> None:
        """Remove an ended run's folder."""
        folder = self._runs / run_id
        if run_id_problem(run_id) or not folder.is_dir():
            raise self._not_found(run_id)
        record = storage_record(str(folder))
        is_going = record.is_deleted or set(record.store.list("")) <= {LOCK, "control"}
        if not is_going:
            self._state(run_id)  # a lost driver has its end, and its Ray is gone, before the lock is held
        with locked(folder):
            if not is_going:
                refuse_living(self._state(run_id))
            record.delete()

    def storage(self, below: str = "") -> Store:
        """The home, or the profile's storage."""
        return ExplainedStore(str(self._runs.parent / below))

    def upload_target(self, place: str, *, replace: bool) -> UploadTarget:
        """None: a run here reads a person's files where they lie."""
        raise SpecError(
            f"cluster {self.profile.name} is this machine, so nothing is uploaded: write the folder itself into data.path"
        )

    def look_at_data(self, job: JobSpec, base_dir: str) -> None:
        """For this process to look."""

    def ping(self) -> str:
        """This machine's cores and GPUs."""
        return f"this machine: {os.cpu_count()} cores, {len(visible_gpus())} GPUs"

    # -- one run -----------------------------------------------------------------------------------------------

    def _run_ids(self) -> Sequence[str]:
        try:
            return [folder.name for folder in self._runs.iterdir() if (folder / plan_name(1)).is_file()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InfrastructureError(f"{self._runs} can't be read: {error.strerror}") from None

    def _was_launched(self, run_id: str) -> bool:
        """Whether its first driver was told to begin, or the run is said to have ended without one."""
        status = self._record(run_id).status()
        return status is not None and (status.state.is_final or self._process(run_id, 1).was_started)

    def _launch(self, plan: Plan, launch: int, body: dict[str, Any], before: RunStatus | None = None) -> None:
        """Start a launch's driver. Under the run's lock; each step may be the last one, and doing all again is right."""
        record = self._record(plan.run_id)
        own_folder(Path(body["ray_dir"]).parent)
        if launch > 1:
            record.store.write(plan_name(launch), plan.model_dump_json(indent=2).encode())
        record.set_state(pending(plan, launch, time.time()).behind(before))
        self._process(plan.run_id, launch).start(body["command"], body["cwd"], body["ray_dir"])

    def _state(self, run_id: str) -> RunStatus:
        """How its newest launch stands; what a killed driver or command left is brought to its end first."""
        record = self._record(run_id)
        status = record.status()
        if record.is_deleted:
            return half_deleted(status or pending(self._plan(run_id, 1), 1, time.time()))
        process = self._process(run_id, status.launch if status else 1)
        has_ended = status is not None and status.state.is_final
        if status is None or (process.has_left_something if has_ended else process.pid is None):
            status = self._settled(run_id)
        if not status.state.is_final and record.stop_was_asked(status.launch):
            status = status.at(RunState.STOPPING)
        return status

    def _settled(self, run_id: str) -> RunStatus:
        """With an end for a driver that is gone without one, and nothing left of an ended one; unless another command
        is at work on the run.
        """
        record = self._record(run_id)
        with locked_if_free(self._runs / run_id) as is_mine:
            status = record.status()  # it may have ended, or been launched, since somebody looked
            if status is None:
                submitted_at = (self._runs / run_id / plan_name(1)).stat().st_mtime
                status = pending(self._plan(run_id, 1), 1, submitted_at)
                if is_mine:
                    record.set_state(status)
            process = self._process(run_id, status.launch)
            if not is_mine or process.pid is not None:
                return status
            if not status.state.is_final:
                status = self._end_of_lost(status, process)
                try:
                    status = record.end(status)
                except InfrastructureError as error:  # a full disk, say: one that asks later writes it
                    log.warning("%s", error)
                    return status
            process.clear()
        return status

    def _end_of_lost(self, status: RunStatus, process: DriverProcess) -> RunStatus:
        if not process.was_started:
            return never_started(status)
        stop_was_asked = self._record(status.run_id).stop_was_asked(status.launch)
        return lost(self._with_output(status), process.log, stop_was_asked=stop_was_asked)

    def _with_output(self, status: RunStatus) -> RunStatus:
        log = self._process(status.run_id, status.launch).log
        return self._placed(with_progress(status, newest_lines(log)))

    def _placed(self, status: RunStatus) -> RunStatus:
        checkpoints = str(self._runs / status.run_id / "checkpoints")
        return status.on(self.profile.name).with_urls({"checkpoints": checkpoints})

    def _lines(self, run_id: str, pattern: str, *, follow: bool) -> Iterator[str]:
        """Lines of all files of the run's folder that match, oldest first; with ``follow`` until it has ended."""
        files: dict[Path, GrowingFile] = {}
        while True:
            has_ended = self._state(run_id).state.is_final
            for path in sorted((self._runs / run_id).glob(pattern), key=_number):
                file = files.setdefault(path, GrowingFile(path))
                yield from file.new_lines()
                if has_ended:
                    yield from file.end()
            if has_ended or not follow:
                return
            time.sleep(_FOLLOW_SECONDS)

    def _record(self, run_id: str) -> RunRecord:
        if run_id_problem(run_id) or not (self._runs / run_id / plan_name(1)).is_file():
            raise self._not_found(run_id)
        return storage_record(str(self._runs / run_id))

    def _not_found(self, run_id: str) -> NotFoundError:
        return NotFoundError(
            f"no run {run_id!r} on cluster {self.profile.name}; trainwright list shows those there are"
        )

    def _plan(self, run_id: str, launch: int) -> Plan:
        """The launch's plan, or the one before it where a launch died before it wrote its own; placed where the run is
        found, which need not be where it was submitted.
        """
        record = self._record(run_id)
        plans = (record.section(plan_name(number), Plan) for number in range(launch, 0, -1))
        return next(plan for plan in plans if plan is not None).moved_to(str(self._runs / run_id))

    def _process(self, run_id: str, launch: int) -> DriverProcess:
        return DriverProcess(store_at(str(self._runs / run_id)), f"launches/{launch}")


def _number(path: Path) -> int:
    """Number of the launch or attempt that a log is of."""
    return int(path.parent.name.rsplit("-", 1)[-1])
