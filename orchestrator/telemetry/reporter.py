"""What an attempt tells the world: events, the tracker, Prometheus and the run's record, all by rank 0 alone. Other ranks
keep the same events in their own logs.
"""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from orchestrator import checkpoint, data, events
from orchestrator.checkpoint import Checkpoint
from orchestrator.control import Mailbox
from orchestrator.data import Prepared
from orchestrator.errors import NotFoundError
from orchestrator.models.base import Sample
from orchestrator.planning.plan import Plan
from orchestrator.runs import Best
from orchestrator.telemetry.gauges import Gauges
from orchestrator.telemetry.model_folder import write_model_folder
from orchestrator.telemetry.samples import files_of
from orchestrator.telemetry.spool import Part, open_spool
from orchestrator.telemetry.system_metrics import NodeMetrics, leads_node
from orchestrator.telemetry.tracking import open_tracker

logger = logging.getLogger("orchestrator")


class Reporter(Protocol):
    """Takes what a rank has to tell. Every method but ``finished`` returns at once."""

    def logged(self, step: int, values: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        """Metrics of a step, and of a training log the seconds by part since the last one."""
        ...

    def saving(self) -> None:
        """A checkpoint is about to be written: what was logged until now must be durable before it is."""
        ...

    def saved(self, step: int, stall_seconds: float, best: Best | None) -> None:
        """A checkpoint was begun, and held training up for so long; the best there is now."""
        ...

    def stalled(self, seconds: float) -> None:
        """Training stood still for a checkpoint."""
        ...

    def generated(self, step: int, samples: Iterable[Sample]) -> None:
        """What the model generates after a step."""
        ...

    def stop_asked(self) -> bool:
        """Whether somebody asked the run to stop."""
        ...

    def ending(self) -> None:
        """The loop has ended: what this rank still has to write for the tracker is written before any has ``finished``."""
        ...

    def finished(self, *, stopped: bool) -> None:
        """The last checkpoint is there; ``stopped``: before the plan's last step."""
        ...


class Teller:
    """A rank's events."""

    def __init__(self, attempt: int, output: events.Output | None) -> None:
        """
        Args:
            attempt: the worker group's start that reports.
            output: where events go. None: the run's output.

        """
        self._attempt, self._output = attempt, output

    def doing(self, text: str) -> None:
        """What it begins to do: ``building the model``."""
        events.emit("stage", to=self._output, doing=text)

    def begins(self, *, launch: int, start_step: int, total_steps: int) -> None:
        """The attempt goes on from a step."""
        events.emit(
            "attempt",
            to=self._output,
            attempt=self._attempt,
            launch=launch,
            start_step=start_step,
            total_steps=total_steps,
        )

    def logged(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of a step."""
        events.emit("metrics", to=self._output, step=step, attempt=self._attempt, values=dict(values))

    def saved(self, step: int, stall_seconds: float, best: Best | None) -> None:
        """A checkpoint was begun."""
        said = {"best": best.model_dump(mode="json")} if best else {}
        events.emit("checkpoint", to=self._output, step=step, stall_seconds=round(stall_seconds, 4), **said)


class OwnLogReporter:
    """Every rank's but the first: what happened is in its own log, and nobody else is told."""

    def __init__(self, teller: Teller, node: NodeMetrics | None) -> None:
        self._teller, self._node = teller, node

    def logged(self, step: int, values: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        """See Reporter."""
        self._teller.logged(step, _rounded(values))

    def saving(self) -> None:
        """Nothing."""

    def saved(self, step: int, stall_seconds: float, best: Best | None) -> None:
        """See Reporter."""
        self._teller.saved(step, stall_seconds, best)

    def stalled(self, seconds: float) -> None:
        """Nothing."""

    def generated(self, step: int, samples: Iterable[Sample]) -> None:
        """Nothing."""

    def stop_asked(self) -> bool:
        """Not asked of this rank."""
        return False

    def ending(self) -> None:
        """See Reporter."""
        if self._node is not None:
            self._node.close()

    def finished(self, *, stopped: bool) -> None:
        """Nothing."""


class RunReporter:
    """Rank 0's."""

    def __init__(
        self,
        plan: Plan,
        prepared: Prepared,
        *,
        teller: Teller,
        attempt: int,
        launch: int,
        start_step: int,
        started_at: float,
    ) -> None:
        """
        Args:
            plan: of the run.
            prepared: its data: what text samples are decoded with, and the tracker's record of data sets.
            teller: its events.
            attempt: the worker group's start that reports.
            launch: whose record is written.
            start_step: the step that the attempt goes on from.
            started_at: of the driver, in seconds since the epoch.

        """
        self._plan, self._prepared, self._attempt, self._teller = plan, prepared, attempt, teller
        self._mailbox = Mailbox(
            plan.storage, launch, partial(checkpoint.is_superseded, f"{plan.storage}/checkpoints", attempt)
        )
        self._gauges = Gauges(plan, attempt=attempt, start_seconds=time.time() - started_at)
        self._tracker = open_tracker(
            plan, attempt=attempt, launch=launch, start_step=start_step, on_url=self._is_tracked_at
        )
        is_measured = _measures(plan)
        self._node = (
            NodeMetrics(self._tracker.measured, plan=plan, started_at=started_at) if is_measured else None
        )

    def _is_tracked_at(self, url: str) -> None:
        if not url:  # a file: nothing serves it yet
            return
        events.emit("tracking", url=url)
        self._mailbox.tracked_at(url)

    def logged(self, step: int, values: Mapping[str, float], seconds: Mapping[str, float]) -> None:
        """See Reporter."""
        rounded = _rounded(values)
        self._tracker.log(step, values)
        self._teller.logged(step, rounded)
        if seconds:
            self._gauges.logged(step, values, seconds, again=step <= self._mailbox.reached_before)
        self._mailbox.reached(step, self._attempt, rounded)

    def saving(self) -> None:
        """See Reporter."""
        self._tracker.flush()

    def saved(self, step: int, stall_seconds: float, best: Best | None) -> None:
        """See Reporter."""
        self._gauges.saved()
        self._gauges.stalled(stall_seconds)
        self._teller.saved(step, stall_seconds, best)
        self._mailbox.saved(best)
        self._tracker.saved()

    def stalled(self, seconds: float) -> None:
        """See Reporter."""
        self._gauges.stalled(seconds)

    def generated(self, step: int, samples: Iterable[Sample]) -> None:
        """See Reporter."""
        shown = [(sample, self._text_of(sample)) for sample in samples]
        for name, content in files_of(step, shown):
            self._tracker.file(step, name, content)

    def _text_of(self, sample: Sample) -> str:
        if sample.kind != "text":
            return ""
        return data.decode_text(self._prepared, sample.data.tolist(), read=sample.read)

    def stop_asked(self) -> bool:
        """See Reporter."""
        return self._mailbox.stop_asked()

    def ending(self) -> None:
        """See Reporter."""
        if self._node is not None:
            self._node.close()

    def finished(self, *, stopped: bool) -> None:
        """See Reporter. Logs the model where the job asks for that; waits for the tracker."""
        job = self._plan.job
        can_be_asked = bool(job.model.export_tensors(job.objective))
        if stopped or not (job.tracking.log_model and can_be_asked) or not self._plan.tracking_uri:
            self._tracker.finish("KILLED" if stopped else "FINISHED")
            return
        saved, described = self._to_log()
        with tempfile.TemporaryDirectory() as place:
            folder = write_model_folder(Path(place), self._plan, self._prepared, saved, described)
            self._tracker.finish("FINISHED", folder)

    def _to_log(self) -> tuple[Checkpoint, str]:
        """The checkpoint whose model is logged, and what it is called."""
        root = f"{self._plan.storage}/checkpoints"
        which: str = self._plan.job.tracking.log_checkpoint
        try:
            saved = checkpoint.chosen(root, which)
        except NotFoundError as error:  # no evaluation gave a finite number
            logger.warning("%s; the newest is logged", error)
            which, saved = checkpoint.NEWEST, checkpoint.chosen(root)
        return saved, checkpoint.described(saved, which)

    def failed(self) -> None:
        """The attempt ends early; the tracker's run stays open for the next one."""
        self.ending()
        self._tracker.finish(None)

    def close(self) -> None:
        """Write the record once more."""
        self._mailbox.close()


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def _measures(plan: Plan) -> bool:
    """Whether this rank looks at its node's machine."""
    return plan.job.tracking.system_metrics and bool(plan.tracking_uri) and leads_node()


@contextlib.contextmanager
def _node_of(plan: Plan, part: Part, started_at: float) -> Iterator[NodeMetrics | None]:
    """What looks at the machine on a rank that writes nothing else for the tracker; None where it looks at none."""
    if not _measures(plan):
        yield None
        return
    with (
        contextlib.closing(open_spool(plan.storage, part)) as writer,
        contextlib.closing(NodeMetrics(writer.log, plan=plan, started_at=started_at)) as node,
    ):
        yield node


@contextlib.contextmanager
def open_reporter(
    plan: Plan,
    prepared: Prepared,
    *,
    teller: Teller,
    rank: int,
    attempt: int,
    launch: int,
    start_step: int,
    started_at: float,
) -> Iterator[Reporter]:
    """The rank's reporter, for as long as it trains.

    Args:
        teller: the rank's events.
        start_step: the step that the attempt goes on from.
        started_at: of the driver, in seconds since the epoch.

    """
    teller.begins(launch=launch, start_step=start_step, total_steps=plan.total_steps)
    if rank != 0:
        with _node_of(plan, Part(attempt, rank), started_at) as node:
            yield OwnLogReporter(teller, node)
        return
    reporter = RunReporter(
        plan,
        prepared,
        teller=teller,
        attempt=attempt,
        launch=launch,
        start_step=start_step,
        started_at=started_at,
    )
    with contextlib.closing(reporter):
        try:
            yield reporter
        except BaseException:
            reporter.failed()
            raise
