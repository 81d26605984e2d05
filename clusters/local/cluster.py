"""This machine: a detached driver process with a Ray instance of its own for each run.

A run lives in ``<home>/runs/<run id>/``, laid out as ``orchestrator.records`` says. The driver outlives the command
that started it. What a killed driver leaves behind is cleared by the next command that looks at the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.clusters.base import Request, Revise
from orchestrator.clusters.local.processes import DriverProcess
from orchestrator.clusters.local.request import gpus_of_this_machine, plan_name, plan_to_process, ray_dir
from orchestrator.clusters.local.status import has_workers, lost, newest_lines
from orchestrator.clusters.shared.driver_command import DRIVER
from orchestrator.clusters.shared.launches import next_launch
from orchestrator.clusters.shared.log_lines import GrowingFile, some_lines
from orchestrator.clusters.shared.progress import with_progress
from orchestrator.clusters.shared.run_records import unreadable_left_out
from orchestrator.errors import InfrastructureError, NotFoundError
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord
from orchestrator.runs import RunState, RunStatus
from orchestrator.spec.load import home
from orchestrator.spec.profile import ClusterProfile

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
        """Start the driver, unless this run id was submitted before."""
        plan, record = request.plan, RunRecord(request.plan.storage)
        try:
            record.store.create("plan.json", plan.model_dump_json(indent=2).encode())
        except OSError as error:
            raise InfrastructureError(f"{plan.storage}: can't be written: {error.strerror}") from None
        self._launch(plan, 1, request.body)
        return self.status(request.run_id)

    def resume(self, run_id: str, revise: Revise | None = None) -> RunStatus:
        """Launch an ended run again."""
        launch = next_launch(self.status(run_id))
        plan = self._plan(run_id, launch - 1)
        if revise is not None:
            plan = revise(plan)
        self._launch(plan, launch, plan_to_process(plan, launch, self._driver))
        return self.status(run_id)

    def status(self, run_id: str) -> RunStatus:
        """How it stands, and how far its output says that it has come."""
        status = self._state(run_id).on(self.profile.name)
        status = with_progress(status, newest_lines(self._process(run_id, status.launch).log))
        return status.with_urls({"checkpoints": str(self._runs / run_id / "checkpoints")})

    def list(self) -> list[RunStatus]:
        """All runs of the home, newest first."""
        found = []
        for plan in self._runs.glob("*/plan.json"):
            with contextlib.suppress(NotFoundError), unreadable_left_out():
                found.append(self.status(plan.parent.name))
        return sorted(found, key=lambda status: status.submitted_at, reverse=True)

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

    def ping(self) -> str:
        """This machine's cores and GPUs."""
        return f"this machine: {os.cpu_count()} cores, {gpus_of_this_machine()} GPUs"

    # -- one run -----------------------------------------------------------------------------------------------

    def _launch(self, plan: Plan, launch: int, body: dict[str, Any]) -> None:
        """Start a launch's driver, unless it was started before."""
        record, process = RunRecord(plan.storage), self._process(plan.run_id, launch)
        # whoever creates the claim starts the driver; a second submit finds it and starts nothing
        if not record.store.create(
            f"launches/{launch}/claim.json", json.dumps({"pid": os.getpid()}).encode()
        ):
            process.wait_for_start()
            return
        if launch > 1:
            record.store.write(plan_name(launch), plan.model_dump_json(indent=2).encode())
        record.set_state(
            RunStatus(
                run_id=plan.run_id,
                state=RunState.PENDING,
                name=plan.job.name,
                launch=launch,
                submitted_at=time.time(),
                total_steps=plan.total_steps,
            )
        )
        started = process.start(body["command"], body["cwd"])
        record.store.write(f"launches/{launch}/process.json", json.dumps(started).encode())

    def _state(self, run_id: str) -> RunStatus:
        """How it stands; a driver that is gone without having written an end was lost."""
        record = self._record(run_id)
        status = record.status()
        if status is None:
            raise NotFoundError(f"run {run_id} was never launched")
        process = self._process(run_id, status.launch)
        if not status.state.is_final and not process.is_alive:
            status = record.status(status.launch) or status  # it may have ended between the two looks
            if not status.state.is_final:
                stop_was_asked = record.stop_was_asked(status.launch)
                status = record.end(lost(status, process.log, stop_was_asked=stop_was_asked))
        if status.state.is_final:
            process.clear(ray_dir(run_id, status.launch))
        elif record.stop_was_asked(status.launch):
            status = status.at(RunState.STOPPING)
        return status

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
        if not run_id or "/" in run_id or not (self._runs / run_id / "plan.json").is_file():
            raise NotFoundError(
                f"no run {run_id!r} on cluster {self.profile.name}; trainwright list shows those there are"
            )
        return RunRecord(str(self._runs / run_id))

    def _plan(self, run_id: str, launch: int) -> Plan:
        """The launch's plan, or the one before it where a launch died before it wrote its own."""
        record = self._record(run_id)
        plans = (record.section(plan_name(number), Plan) for number in range(launch, 0, -1))
        return next(plan for plan in plans if plan is not None)

    def _process(self, run_id: str, launch: int) -> DriverProcess:
        return DriverProcess(self._runs / run_id / "launches" / str(launch))


def _number(path: Path) -> int:
    """Number of the launch or attempt that a log is of."""
    return int(path.parent.name.rsplit("-", 1)[-1])
