"""Where a run is looked at: the Tracker protocol, its null object, and the one that writes the spool and sends it.

Nothing here may slow a step or end a run. A point goes into the spool in the run's storage; one thread sends from
there in batches, because a call for each metric costs 9-20 ms on the caller. With the server away the thread tries
again with growing pauses and says so once; what it does not come to send, the next attempt, the driver, or whoever
looks at the run (``closing``) does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

from orchestrator import checkpoint
from orchestrator.checkpoint import Checkpoint
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord
from orchestrator.telemetry.ledger_keeper import ledger_after
from orchestrator.telemetry.mlflow_errors import is_gone, sentence
from orchestrator.telemetry.sending import Sender
from orchestrator.telemetry.spool import Part, Spool, SpoolWriter, open_spool, sender_lock

if TYPE_CHECKING:
    from orchestrator.telemetry.mlflow_run import MlflowRun
    from orchestrator.telemetry.model_folder import ModelFolder

logger = logging.getLogger("orchestrator")

_SEND_SECONDS = 1.0
_CLOSE_SECONDS = 30.0
"""How long the end waits for a server that takes nothing."""
_FAILED_SECONDS = 5.0
_LONGEST_CLOSE_SECONDS = 600.0
"""How long it waits for one that takes things slowly: a model is some 30 requests."""
_LONGEST_PAUSE = 10.0
_LEDGER_SECONDS = 2.0
"""How long the end waits until the driver has heard of the last log."""


class Tracker(Protocol):
    """Holds the record of a run. Every method but the last returns at once; none raises."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metric values of a step."""
        ...

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """What was measured of this rank's node: see ``system_metrics``. Called by another thread than the rest."""
        ...

    def file(self, step: int, name: str, content: bytes) -> None:
        """A file that shows samples of a step."""
        ...

    def flush(self) -> None:
        """Make durable what was logged: called before a checkpoint of the same step is."""
        ...

    def saved(self) -> None:
        """A checkpoint was begun, and those that are not to be kept are gone."""
        ...

    def finish(self, status: str | None, model: ModelFolder | None = None) -> None:
        """Send what there is, log the model, close the run as FINISHED, FAILED or KILLED.

        With status None the run stays open: another attempt goes on with it.
        """
        ...


class NullTracker:
    """Tracks nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def file(self, step: int, name: str, content: bytes) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def saved(self) -> None:
        """Nothing."""

    def finish(self, status: str | None, model: ModelFolder | None = None) -> None:
        """Nothing."""


def open_tracker(
    plan: Plan, *, attempt: int, launch: int, start_step: int, on_url: Callable[[str], None]
) -> Tracker:
    """The job's tracker.

    Args:
        plan: of the run.
        attempt: the worker group's start that logs.
        launch: that it belongs to.
        start_step: the step that the attempt goes on from: what was logged behind it is not logged again.
        on_url: called once, from the tracker's thread, when the run's address is known.

    """
    if not plan.tracking_uri:
        return NullTracker()
    return MlflowTracker(plan, attempt=attempt, launch=launch, start_step=start_step, on_url=on_url)


class MlflowTracker:
    """Rank 0's: writes its part of the spool, and sends all of it to the run's MLflow record."""

    def __init__(
        self, plan: Plan, *, attempt: int, launch: int, start_step: int, on_url: Callable[[str], None]
    ) -> None:
        self._plan, self._launch, self._on_url = plan, launch, on_url
        self._spool = Spool(plan.storage)
        self._writer: SpoolWriter = open_spool(
            plan.storage, Part(attempt, 0), self._spool.logged_after(start_step)
        )
        self._spool.follow_earlier(attempt)
        self._has_records, self._ended = threading.Event(), threading.Event()
        self._has_new_checkpoint = threading.Event()
        self._status: str | None = None
        self._model: ModelFolder | None = None
        self._give_up_at = float("inf")
        self._patience = _CLOSE_SECONDS
        self._problem = ""
        self._last_step = 0
        self._thread = threading.Thread(target=self._work, name="mlflow-tracker", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """See Tracker."""
        self._last_step = step
        self._writer.log(step, metrics)
        self._has_records.set()

    def measured(self, step: int, metrics: Mapping[str, float]) -> None:
        """See Tracker. Waits for the loop's first record: until then MLflow is not imported."""
        self._writer.log(step, metrics)

    def file(self, step: int, name: str, content: bytes) -> None:
        """See Tracker."""
        self._writer.add_file(step, name, content)
        self._has_records.set()

    def flush(self) -> None:
        """See Tracker."""
        self._writer.flush()

    def saved(self) -> None:
        """See Tracker."""
        self._has_new_checkpoint.set()

    def _kept(self) -> list[Checkpoint]:
        return checkpoint.committed(f"{self._plan.storage}/checkpoints")

    def finish(self, status: str | None, model: ModelFolder | None = None) -> None:
        """See Tracker. Waits half a minute at most for a server that takes nothing, ten for one that is slow."""
        self._writer.close()
        self._status, self._model = status, model
        # where another attempt follows, that one sends what waits
        self._patience = _CLOSE_SECONDS if status is not None else _FAILED_SECONDS
        self._give_up_at = time.monotonic() + self._patience
        self._ended.set()
        self._has_records.set()
        self._thread.join(timeout=_CLOSE_SECONDS)
        if self._thread.is_alive():
            if not self._problem:
                said = "MLflow at %s is slow; the end waits for it for %d minutes at most"
                logger.info(said, self._plan.tracking_uri, _LONGEST_CLOSE_SECONDS // 60)
            self._thread.join(timeout=_LONGEST_CLOSE_SECONDS - _CLOSE_SECONDS)
        if self._thread.is_alive() and self._model is not None:
            logger.warning(
                "MLflow at %s did not take the model in time; trainwright export %s writes it from its checkpoint",
                self._plan.tracking_uri,
                self._plan.run_id,
            )
        if self._writer.lost:
            logger.warning("the run's storage did not take %d metric values", self._writer.lost)

    # -- the thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        self._has_records.wait()  # mlflow takes seconds to import: not before the first step has been taken
        with sender_lock(self._plan.storage, _CLOSE_SECONDS) as is_held:
            if is_held:
                self._send_until_ended()

    def _send_until_ended(self) -> None:
        run: MlflowRun | None = None
        sender: Sender | None = None
        pause, is_last = _SEND_SECONDS, False
        while True:
            is_last = is_last or self._ended.is_set()
            try:
                run = run or self._connect()
                sender = sender or Sender(self._spool, run)
                for _ in sender.send_new():
                    self._went_well()
                if self._has_new_checkpoint.is_set() and not is_last:
                    self._has_new_checkpoint.clear()
                    run.models.keep_up(self._kept())
                if is_last:
                    self._end(run)
                    return
                pause = _SEND_SECONDS
            except Exception as error:
                self._say(error)
                pause = min(2 * pause, _LONGEST_PAUSE)
                if time.monotonic() + pause > self._give_up_at:
                    known = sender.sent if sender else None
                    self._say_what_waits({} if is_gone(error) else known)
                    return
            is_last = self._wait(pause, is_last)

    def _wait(self, pause: float, is_last: bool) -> bool:
        """Sleep, until the end at most; whether what follows is the last round."""
        if is_last:
            time.sleep(pause)
            return True
        return self._ended.wait(pause)

    def _connect(self) -> MlflowRun:
        from orchestrator.telemetry.mlflow_run import MlflowRun

        run = MlflowRun.open(self._plan, self._spool)
        run.reopen()
        self._on_url(run.url)
        return run

    def _end(self, run: MlflowRun) -> None:
        if self._model is not None:
            run.models.log(self._model, self._kept())
            self._went_well()
            self._model = None  # where what follows fails, this is not done again
        if self._status is not None:
            run.models.keep_up(self._kept())
        if self._status is not None:
            now, record = time.time(), RunRecord(self._plan.storage)
            ledger = ledger_after(record, self._launch, self._last_step, _LEDGER_SECONDS)
            run.close(self._launch, self._status, now, ledger and ledger.ended(now))

    def _went_well(self) -> None:
        if self._problem:
            logger.info("MLflow at %s answers again", self._plan.tracking_uri)
        self._problem = ""
        if self._ended.is_set():
            self._give_up_at = time.monotonic() + self._patience

    def _say(self, error: Exception) -> None:
        said = sentence(error, self._plan.tracking_uri)
        if said != self._problem:
            self._problem = said
            logger.warning("MLflow at %s: %s; training goes on", self._plan.tracking_uri, said)

    def _say_what_waits(self, sent: Mapping[str, int] | None) -> None:
        logger.warning(
            "MLflow at %s %s; they are kept with the run, and sent by trainwright sync %s",
            self._plan.tracking_uri,
            self._spool.lacking(sent),
            self._plan.run_id,
        )
