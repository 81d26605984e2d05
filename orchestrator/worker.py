"""What one worker process sets up around the loop: model, engine, data, checkpoints, logs and the stop signal."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import tempfile
import threading
import time
from collections.abc import Collection, Generator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orchestrator import checkpoint, data, events, loop
from orchestrator.checkpoint import Checkpoint, Checkpoints
from orchestrator.data import Prepared
from orchestrator.errors import CheckpointError, DataError
from orchestrator.models.base import Batch
from orchestrator.planning.plan import Plan
from orchestrator.rank import assemble
from orchestrator.records import RunRecord
from orchestrator.runs import RunState
from orchestrator.telemetry import pictures
from orchestrator.telemetry.gauges import Gauges
from orchestrator.telemetry.rank_log import kept_log
from orchestrator.telemetry.tracking import NullTracker, Tracker, open_tracker

logger = logging.getLogger("orchestrator")

_REACHED = "control/reached"
_LAST_WORD_SECONDS = 10.0

_SAMPLES = 16
"""Generated samples that are logged at a time."""


def run(config: Mapping[str, Any]) -> dict[str, Any]:
    """Train on this worker. Called by Ray Train on every worker of the group, once for each attempt.

    Args:
        config: ``plan`` and ``prepared`` as JSON text, ``launch``, and ``started_at`` (the driver's start, in seconds
            since the epoch).

    Returns:
        The step reached, whether the run was stopped, and the last metrics.

    """
    plan = Plan.model_validate_json(config["plan"])
    prepared = Prepared.model_validate_json(config["prepared"])
    rank = dist.get_rank() if dist.is_initialized() else 0
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    control = dist.new_group(backend="gloo") if world_size > 1 else None
    attempt = _agree(rank, control, lambda: checkpoint.next_attempt(f"{plan.storage}/checkpoints"))

    with kept_log(plan.storage, attempt, rank):
        newest = _agree(rank, control, lambda: checkpoint.newest_good(f"{plan.storage}/checkpoints"))
        worker = _Worker(
            plan,
            prepared,
            rank,
            world_size,
            attempt,
            control,
            launch=int(config["launch"]),
            started_at=float(config["started_at"]),
        )
        try:
            return worker.train(newest)
        except BaseException:
            worker.tracker.finish(None)
            raise
        finally:
            worker.close()


def skipped_by_all(stream: data.TrainStream, group: dist.ProcessGroup | None) -> list[int]:
    """Bad samples that the job left out, on any rank in any attempt. Raises DataError on every rank where too many."""
    if group is not None:
        of_ranks: list[list[int]] = [[]] * dist.get_world_size(group)
        dist.all_gather_object(of_ranks, stream.skipped, group=group)
        stream.count_skipped(sorted({sample for of_rank in of_ranks for sample in of_rank}))
    return stream.skipped


class _Worker:
    """The loop's surroundings on one rank."""

    def __init__(
        self,
        plan: Plan,
        prepared: Prepared,
        rank: int,
        world_size: int,
        attempt: int,
        control: dist.ProcessGroup | None,
        *,
        launch: int,
        started_at: float,
    ) -> None:
        self._started_at = started_at
        self._plan, self._prepared, self._rank, self._world_size = plan, prepared, rank, world_size
        self._attempt, self._control, self._launch = attempt, control, launch
        self._assembled = assemble(plan)
        self._checkpoints = Checkpoints(
            f"{plan.storage}/checkpoints", attempt=attempt, rank=rank, world_size=world_size, group=control
        )
        self._evaluation = self._assembled.open_eval(prepared)
        self.tracker: Tracker = NullTracker()
        self._mailbox = _Mailbox(plan, launch) if rank == 0 else None
        self._gauges: Gauges | None = None
        self._next_stop_check = 0
        self._last_stop_check = (0, time.monotonic())

    def train(self, newest: Checkpoint | None) -> dict[str, Any]:
        """Load what there is, and take the remaining steps."""
        plan, start_step = self._plan, 0
        skipped: Collection[int] = ()
        events.emit(
            "worker", rank=self._rank, pid=os.getpid(), host=socket.gethostname(), attempt=self._attempt
        )
        if newest is not None:
            if self._data_is_the_same(newest):
                skipped = newest.meta.get("skipped", ())
            self._assembled.load(newest)
            start_step = newest.step
            if self._rank == 0:
                logger.info("attempt %d goes on from the checkpoint of step %d", self._attempt, start_step)
        if self._rank == 0:
            self.tracker = open_tracker(plan, dataset=self._prepared.lineage, on_url=self._is_tracked_at)
            events.emit(
                "attempt",
                attempt=self._attempt,
                launch=self._launch,
                start_step=start_step,
                total_steps=plan.total_steps,
            )
            self._gauges = Gauges(plan, attempt=self._attempt, start_seconds=time.time() - self._started_at)
        self._stream = stream = self._assembled.open_train(
            self._prepared, start_step=start_step, skipped=skipped
        )
        with contextlib.closing(stream):
            outcome = loop.train(
                plan,
                self._assembled.engine,
                self._assembled.objective,
                self._assembled.on_device(stream),
                self,
                start_step,
            )
        self._checkpoints.wait()
        self._prune()
        if self._rank == 0:
            self._finish(outcome)
        return {
            "step": outcome.step,
            "stopped": outcome.stopped,
            "metrics": outcome.metrics,
            "attempt": self._attempt,
        }

    def _finish(self, outcome: loop.Outcome) -> None:
        plan = self._plan
        status = "KILLED" if outcome.stopped else "FINISHED"
        if outcome.stopped or not plan.job.tracking.log_model or not plan.tracking_uri:
            self.tracker.finish(status)
            return
        newest = checkpoint.newest_good(f"{plan.storage}/checkpoints")
        assert newest is not None, "the loop saves after its last step"
        with tempfile.TemporaryDirectory() as folder:
            from orchestrator.checkpoint.export import to_safetensors

            to_safetensors(newest, Path(folder) / "model.safetensors")
            (Path(folder) / "config.json").write_text(
                plan.job.model_dump_json(include={"model", "objective"}, indent=2)
            )
            (Path(folder) / "inputs.json").write_text(
                data.inputs_of(plan.job, self._prepared).model_dump_json(indent=2)
            )
            self.tracker.finish(status, Path(folder))

    def _data_is_the_same(self, newest: Checkpoint) -> bool:
        """Raises DataError where it is not, and that is not accepted."""
        change = data.describe_change(newest.meta["identity"], self._prepared.identity)
        if change is None:
            return True
        said = f"the training data is not what the checkpoint of step {newest.step} was trained on: {change}"
        if not self._plan.job.recovery.accept_changed_data:
            raise DataError(f"{said}; put it back, or go on with --set recovery.accept_changed_data=true")
        if self._rank == 0:
            logger.warning("%s; going on, as recovery.accept_changed_data says", said)
        return False

    # -- what the loop asks for ------------------------------------------------------------------------------

    def evaluation(self) -> Generator[Batch]:
        """The evaluation set's batches on the device."""
        assert self._evaluation is not None
        for arrays in self._evaluation.batches():
            yield self._assembled.to_device(self._assembled.to_tensors(arrays))

    def save(self, step: int, metrics: dict[str, float]) -> None:
        """Write a checkpoint, and let go of those that are not to be kept."""
        plan = self._plan
        meta = {
            "step": step,
            "identity": self._prepared.identity,
            "seed": plan.job.training.seed,
            "position": step * plan.job.training.global_batch_size,
            "skipped": skipped_by_all(
                self._stream, self._control if plan.job.data.skip_bad_samples else None
            ),
            "plan_digest": plan.digest,
            "scalars": self._assembled.engine.scalars(),
            "metrics": metrics,
            "model": plan.job.model.model_dump(mode="json"),
            "objective": plan.job.objective.model_dump(mode="json"),
        }
        stall = self._checkpoints.save(
            step, self._assembled.engine.state(), meta, asynchronous=plan.job.checkpoint.asynchronous
        )
        self._prune()
        if self._rank == 0:
            if self._gauges is not None:
                self._gauges.saved()
                self._gauges.stalled(stall)
            events.emit("checkpoint", step=step, stall_seconds=round(stall, 4))

    def before_update(self) -> None:
        """Wait for the copy that the last save makes."""
        stall = self._checkpoints.wait_until_copied()
        if self._gauges is not None:
            self._gauges.stalled(stall)

    def _prune(self) -> None:
        keep = self._plan.job.checkpoint.keep
        self._checkpoints.prune(last=keep.last, best=keep.best, metric=keep.metric, mode=keep.mode)

    def show_samples(self, step: int) -> None:
        """Log what the model generates, where the family generates something."""
        if self._evaluation is None:
            return
        with contextlib.closing(self.evaluation()) as batches:
            batch = next(batches)
        with loop.evaluating(self._assembled.engine), torch.no_grad():
            samples = self._assembled.objective.samples(self._assembled.engine.modules, batch, _SAMPLES)
        if self._rank != 0:
            return
        for sample in samples:
            if sample.kind == "text":
                self.tracker.text(step, sample.name, data.decode_text(self._prepared, sample.data.tolist()))
            else:
                self.tracker.image(step, sample.name, pictures.of_sample(sample))

    def stop_requested(self, step: int) -> bool:
        """Whether somebody asked for a stop. Ranks agree about once a second, at a step that rank 0 names."""
        if step < self._next_stop_check:
            return False
        answer = torch.zeros(2, dtype=torch.int64)
        if self._mailbox is not None:
            last_step, last_time = self._last_stop_check
            seconds_per_step = (time.monotonic() - last_time) / max(1, step - last_step)
            answer[0] = int(self._mailbox.stop_asked())
            answer[1] = step + max(1, min(1000, int(0.5 / max(seconds_per_step, 1e-6))))
            self._last_stop_check = step, time.monotonic()
        if self._control is not None:
            dist.broadcast(answer, src=0, group=self._control)
        stop, self._next_stop_check = bool(answer[0]), int(answer[1])
        return stop

    def _is_tracked_at(self, url: str) -> None:
        events.emit("tracking", url=url)
        if self._mailbox is not None:
            self._mailbox.tracked_at(url)

    def log(self, step: int, values: dict[str, float], seconds: dict[str, float]) -> None:
        """Metrics of a step, from rank 0: as an event, to the tracker, to Prometheus."""
        if self._mailbox is None:
            return
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        events.emit("metrics", step=step, attempt=self._attempt, values=rounded)
        self.tracker.log(step, values)
        if seconds and self._gauges is not None:
            self._gauges.logged(step, values, seconds, again=step <= self._mailbox.reached_before)
        self._mailbox.reached(step, self._attempt, rounded)

    def close(self) -> None:
        """Let go of threads and groups."""
        if self._mailbox is not None:
            self._mailbox.close()
        self._checkpoints.close()
        self._assembled.close()


class _Mailbox:
    """Rank 0's small exchange with the run's storage, from a thread: has a stop been asked for, how far have we come."""

    def __init__(self, plan: Plan, launch: int) -> None:
        self._record = RunRecord(plan.storage)
        self._launch = launch
        self._status = self._record.status(launch)
        self._stop, self._closed = threading.Event(), threading.Event()
        self._pause = 0.5 if "://" not in plan.storage else 5.0
        self.reached_before = int(self._record.read(_REACHED) or 0)
        """Last step that an earlier attempt logged."""
        self._reached = self._written = 0
        self._urls = dict(self._status.urls) if self._status is not None else {}
        self._told = self._status
        self._thread = threading.Thread(target=self._work, name="mailbox", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._closed.wait(self._pause)
            with contextlib.suppress(OSError):  # storage that fails for a moment is asked again
                if self._record.stop_was_asked(self._launch):
                    self._stop.set()
                if self._reached > self._written:
                    self._written = self._reached
                    self._record.write(_REACHED, str(self._written).encode())
                told = self._status and self._status.model_copy(update={"urls": self._urls})
                if told is not None and told != self._told:
                    self._record.set_state(told)
                    self._told = told

    def tracked_at(self, url: str) -> None:
        """Note where the run's metrics are shown. Told by the tracker's thread, so it is kept apart from the status."""
        self._urls = {**self._urls, "mlflow": url}

    def reached(self, step: int, attempt: int, metrics: dict[str, float]) -> None:
        """Note the last step that was logged: whoever lists runs reads it from the record."""
        self._reached = max(step, self.reached_before)
        if self._status is not None:
            update = {"state": RunState.RUNNING, "step": step, "attempt": attempt}
            metrics = {
                **self._status.metrics,
                **{name: value for name, value in metrics.items() if math.isfinite(value)},
            }
            self._status = self._status.model_copy(update={**update, "metrics": metrics})

    def stop_asked(self) -> bool:
        """Whether a stop was asked for."""
        return self._stop.is_set()

    def close(self) -> None:
        """Look and tell once more, then stop."""
        self._closed.set()
        self._thread.join(timeout=_LAST_WORD_SECONDS)


def _agree(rank: int, group: dist.ProcessGroup | None, ask: Any) -> Any:
    """Rank 0's answer, on every rank; its error too, so that no rank waits for one that has gone."""
    answer: list[Any] = [None, None]
    if rank == 0:
        try:
            answer[0] = ask()
        except (CheckpointError, OSError) as error:
            answer[1] = str(error)
    if group is not None:
        dist.broadcast_object_list(answer, src=0, group=group)
    if answer[1]:
        raise CheckpointError(answer[1])
    return answer[0]
