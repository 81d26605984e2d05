"""On the Ray head: Plan -> data, workers, end; or, of a plan that asks a trained model, its answer. The one command that every
backend runs.

``python -m orchestrator.driver --plan plan.json --launch 1 [--start-ray DIR]``
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator import events, waited
from orchestrator.errors import InfrastructureError, StoppedError, SupersededError, TrainwrightError
from orchestrator.keeper import end_with_keeper, keep
from orchestrator.planning.make_plan import with_counts
from orchestrator.planning.plan import Plan
from orchestrator.ray_session import RaySession, RoomOf, Work, room_of_machine, train_on_worker
from orchestrator.ray_settings import environment_of
from orchestrator.records import PLAN, RunRecord, plan_name
from orchestrator.recovery.diagnosis import Answers, Diagnosis, nobody_trains
from orchestrator.recovery.incidents import incident_of
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.storage import store_at
from orchestrator.storage.faults import first_line

_STOP_POLL_SECONDS = 1.0
_DIAGNOSIS_POLL_SECONDS = 1.0
_SECONDS_BETWEEN_PARTS = 1.0
"""How often it is told how many files of predictions there are, and looked whether they should stop."""
_SENDER_SECONDS = 10.0
"""How long a worker that is ending may still send to the tracker."""


def main(
    arguments: list[str] | None = None, work: Work = train_on_worker, room: RoomOf = room_of_machine
) -> int:
    """Run one launch of a plan to its end, with ``work`` on each worker; the exit code is that of the end's reason.

    Args:
        arguments: of the command.
        work: what each worker does.
        room: says of a plan what tells for how many workers a private instance has room, where that changes.

    """
    started_at = time.time()
    parser = argparse.ArgumentParser(prog="python -m orchestrator.driver", description=__doc__)
    parser.add_argument("--plan", required=True, help="file with the plan's JSON")
    parser.add_argument("--launch", type=int, default=1, help="1, and one more for each resume")
    parser.add_argument(
        "--start-ray", metavar="DIR", help="start a private Ray instance with its files in DIR"
    )
    parser.add_argument(
        "--keep", action="store_true", help="in a process of its own, which is started again where it is lost"
    )
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    plan = Plan.model_validate_json(Path(options.plan).read_text(encoding="utf-8"))
    pod = waited.of_pod(Path(options.plan))
    if options.keep:
        return keep(
            plan, options.launch, _kept_command(options.plan, options.launch), pod.name if pod else None
        )
    if options.kept:
        end_with_keeper()
    return Driver(plan, options.launch, options.start_ray, started_at, pod, work, room).run()


def _kept_command(plan: str, launch: int) -> list[str]:
    return [sys.executable, "-m", "orchestrator.driver", "--plan", plan, "--launch", str(launch), "--kept"]


class _EndNow(KeyboardInterrupt):
    """A signal that ends the launch at once: of the kind that nothing between here and its handler takes for a failure of
    its own to deal with, as Ray Train's controller and asyncio do with others.
    """


class Driver:
    """One launch."""

    def __init__(
        self,
        plan: Plan,
        launch: int,
        ray_dir: str | None,
        started_at: float,
        pod: waited.Pod | None = None,
        work: Work = train_on_worker,
        room: RoomOf = room_of_machine,
    ) -> None:
        """
        Args:
            plan: of the run.
            launch: 1, and one more for each resume.
            ray_dir: folder of a private Ray instance; None joins the cluster's.
            started_at: seconds since the epoch.
            pod: of this driver, where it is in one.
            work: what each worker does.
            room: see ``main``.

        """
        self._on_worker, self._pod, self._room = work, pod, room
        self._plan, self._launch, self._ray_dir, self._started_at = plan, launch, ray_dir, started_at
        self._record = RunRecord(plan.storage)
        self._status = self._record.status(launch) or RunStatus(
            run_id=plan.run_id,
            state=RunState.PENDING,
            name=plan.job.name,
            launch=launch,
            submitted_at=pod.waited[0][1] if pod else started_at,
            before=waited.launch_before(),
        )
        self._stops_asked = 0
        self._why_at_once = "stopped before it could save"
        self._over, self._head_has_notice = threading.Event(), threading.Event()
        self._look: Callable[[], Diagnosis] = nobody_trains
        self._has_workers = False
        self._told_at = 0.0

    def run(self) -> int:
        """Start Ray, prepare data, train or answer, write the end. A launch that has its end already is not run again: a
        cluster that did not hear of the end (KubeRay, after a lost head) starts the same command once more.
        """
        if self._status.state.is_final:
            return _tell_end(self._status)
        from orchestrator.telemetry.ledger_keeper import LedgerKeeper

        try:
            self._record.keep_launches_before(self._status)
            self._record = self._record.taken_over(self._launch)
        except OSError as error:
            end = self._end_of(InfrastructureError(f"the run's record can't be written: {first_line(error)}"))
            return _tell_end(end)
        with LedgerKeeper(self._record, self._status) as self._ledger:
            return self._run()

    def _run(self) -> int:
        self._listen_to_signals()
        threading.Thread(target=self._end_after_grace, name="stop-grace", daemon=True).start()
        threading.Thread(target=self._diagnose, name="diagnosis", daemon=True).start()
        try:
            self._say_starting()
            end = self._work()
        except _EndNow:
            end = self._end_of(StoppedError(self._why_at_once))
        except BaseException as error:
            end = self._end_of(error)
        self._over.set()
        ledger = self._ledger.ended(end.ended_at or time.time())
        try:
            end = self._written(end.with_effective(ledger.effective))
        except SupersededError as superseded:
            sys.stderr.write(f"{superseded}\n")  # how the launch ends is the other driver's to tell
            return superseded.exit_code
        self._close_tracking(end)
        return _tell_end(end)

    def _written(self, end: RunStatus) -> RunStatus:
        """The end that holds; where the storage takes none, it is told all the same, and whoever asks next writes it."""
        try:
            return self._record.end(end)
        except OSError as error:
            return end.saying(f"{end.message}; the end could not be written: {first_line(error)}")

    def _say_starting(self) -> None:
        starting = self._status.in_attempt(self._status.attempt, self._plan.total_steps)
        self._status = starting.at(RunState.STARTING)
        self._record.set_state(self._status)
        events.emit("state", state=self._status.state, run_id=self._plan.run_id, launch=self._launch)
        if not self._ray_dir:
            os.environ.update(environment_of(self._plan))  # Ray reads some of it as it is imported
            waited.tell(self._pod)

    def _work(self) -> RunStatus:
        if not self._plan.parameters:
            _doing("counting the model")
            self._plan = _counted(self._plan)
        _doing("starting Ray" if self._ray_dir else "joining the cluster's Ray")
        with RaySession(self._plan, self._ray_dir, self._record, self._room) as ray:
            self._listen_to_signals()  # Ray puts its own SIGTERM handler there, which exits
            ray.wait_for_resources(self._stop_asked)
            self._look = lambda: ray.look()
            ray.head_has_notice = self._head_has_notice.is_set
            return self._train(ray) if self._plan.question is None else self._answer(ray)

    def _train(self, ray: RaySession) -> RunStatus:
        from orchestrator import data
        from orchestrator.telemetry.closing import describe_run
        from orchestrator.telemetry.gauges import LedgerGauges

        _doing("preparing the data")
        prepared = data.prepare(self._plan)
        describe_run(self._plan, data=prepared.lineage, started_at=self._started_at)
        inputs = data.inputs_of(self._plan.job, prepared).model_dump_json(indent=2)
        store = store_at(self._plan.storage)  # for whoever exports the model, or predicts with it
        store.write(data.INPUTS, inputs.encode())
        for name in (PLAN, plan_name(self._launch)):
            if not store.exists(name):  # on this machine it was written first of all
                store.write(name, self._plan.model_dump_json(indent=2).encode())
        _doing("starting the workers")
        self._has_workers = True
        with self._ledger.shown(LedgerGauges(self._plan).show):
            outcome = ray.train(
                prepared.model_dump_json(),
                launch=self._launch,
                started_at=self._started_at,
                work=self._on_worker,
            )
        reached = self._status.reached(outcome["step"], outcome["attempt"], outcome["metrics"])
        state, reason, message = (
            (RunState.STOPPED, EndReason.STOPPED_BY_USER, f"stopped after step {outcome['step']}")
            if outcome["stopped"]
            else (RunState.SUCCEEDED, EndReason.COMPLETED, _succeeded(outcome))
        )
        return reached.ended(state, reason, message, ended_at=time.time())

    def _answer(self, ray: RaySession) -> RunStatus:
        from orchestrator.inference.answer import answered

        self._has_workers = True  # who are stopped between two parts of what they write
        try:
            found = answered(self._plan, ray, self._launch, self._reached_part)
        except StoppedError as stop:
            stopped = RunState.STOPPED, EndReason.STOPPED_BY_USER, str(stop)
            return self._status.ended(*stopped, ended_at=time.time())
        return self._status.ended(
            RunState.SUCCEEDED,
            EndReason.COMPLETED,
            found.sentence,
            ended_at=time.time(),
            metrics=found.tracked,
        )

    def _reached_part(self, done: int, of: int) -> None:
        """After a part of the predictions was written. Raises StoppedError where a stop was asked for."""
        if time.monotonic() - self._told_at > _SECONDS_BETWEEN_PARTS:
            self._told_at = time.monotonic()
            said = f"{done} of {of} files"
            if self._head_has_notice.is_set():  # no worker leaves: each file that is done until then is kept
                said += "; the head will be taken away, and the next one goes on with those that are missing"
            self._status = self._status.saying(said)
            self._record.set_state(self._status)
            _doing(f"predicting: {said}")
            if self._stop_asked():
                raise StoppedError(f"stopped after {done} of {of} files, which resume keeps")

    def _end_of(self, error: BaseException) -> RunStatus:
        incident = incident_of(error)
        if not isinstance(error, TrainwrightError) and incident.reason is EndReason.INFRASTRUCTURE:
            traceback.print_exception(error)
        if incident.traceback:
            sys.stderr.write(incident.traceback.rstrip() + "\n")
        reason, message = incident.reason, incident.message
        if self._stop_asked():
            reason, message = EndReason.STOPPED_BY_USER, self._why_at_once
        state = RunState.STOPPED if reason is EndReason.STOPPED_BY_USER else RunState.FAILED
        return self._status.ended(state, reason, message, ended_at=time.time())

    def _close_tracking(self, end: RunStatus) -> None:
        """Rank 0 closes the tracker's run when the loop ends; when it could not, the driver does."""
        if self._plan.tracking_uri:
            from orchestrator.telemetry.closing import close_quietly, describe_run
            from orchestrator.telemetry.mlflow_run import REQUEST_SECONDS

            with contextlib.suppress(OSError):
                describe_run(self._plan, data={}, started_at=self._started_at)
            close_quietly(
                self._plan.storage, end, wait_seconds=_SENDER_SECONDS, request_seconds=REQUEST_SECONDS
            )

    # -- stopping --------------------------------------------------------------------------------------------

    def _stop_asked(self) -> bool:
        return self._record.stop_was_asked(self._launch)

    def _listen_to_signals(self) -> None:
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def _end_after_grace(self) -> None:
        """On a thread: end the launch where a graceful stop takes longer than the job allows, or where another driver has taken
        it over. And hear that the head will be taken away.
        """
        grace, asked_at = self._plan.job.recovery.stop_grace, None
        while not self._over.wait(_STOP_POLL_SECONDS):
            with contextlib.suppress(OSError):  # storage that fails for a moment is asked again
                if asked_at is None and self._stop_asked():
                    asked_at = time.monotonic()
                if self._pod and self._record.head_leaves(self._launch, self._pod.name):
                    self._head_has_notice.set()
                if self._record.is_superseded:
                    self._end_at_once("another driver has taken this launch over")
                    return
            if asked_at is not None and time.monotonic() - asked_at > grace:
                self._end_at_once(f"did not stop within recovery.stop_grace, {grace:g} s, and was ended")
                return

    def _end_at_once(self, why: str) -> None:
        """From a thread."""
        self._stops_asked, self._why_at_once = max(1, self._stops_asked), why
        os.kill(os.getpid(), signal.SIGTERM)

    def _diagnose(self) -> None:
        """On a thread: say what all workers do to whoever asks for it in the record."""
        with contextlib.suppress(OSError):
            answers = Answers(self._record)
            while not self._over.wait(_DIAGNOSIS_POLL_SECONDS):
                with contextlib.suppress(OSError):
                    answers.answer(self._look)

    def _on_signal(self, number: int, frame: Any) -> None:
        """First: ask the workers to finish the step and save. Second, or before there are workers: end now."""
        self._stops_asked += 1
        with contextlib.suppress(SupersededError):  # the other one goes on
            self._record.ask_to_stop(self._launch)
        if self._stops_asked > 1 or not self._has_workers:
            raise _EndNow


def _counted(plan: Plan) -> Plan:
    """A plan of a machine that had no torch, with what its model counts."""
    from orchestrator.models.sizes import count

    job = plan.job
    return with_counts(plan, count(job.model, job.objective, job.initialize.lora))


def _succeeded(outcome: Mapping[str, Any]) -> str:
    if outcome["enough"]:
        return f"ended early after step {outcome['step']}: {outcome['enough']}"
    return f"took all {outcome['step']} steps"


def _doing(text: str) -> None:
    events.emit("stage", doing=text)


def _tell_end(end: RunStatus) -> int:
    """The last event line; returns the exit code."""
    events.emit(
        "end",
        time=round(end.ended_at or time.time(), 3),
        state=end.state,
        reason=end.reason,
        message=end.message,
        metrics=end.metrics,
        step=end.step,
    )
    return end.reason.exit_code if end.reason else 4


if __name__ == "__main__":
    sys.exit(main())
