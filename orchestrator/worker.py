"""What one worker process sets up around the loop: an attempt, its rank, its checkpoints, its data and its reports."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from orchestrator import checkpoint, data, events, loop, own_code
from orchestrator.checkpoint import Checkpoint, Checkpoints, Ranking
from orchestrator.checkpoint.start import ADAPTERS
from orchestrator.control import Peers, StopCheck
from orchestrator.data import Prepared, TrainStream
from orchestrator.errors import DataError, NoticeError, ResizeError, SpecError, UserCodeError
from orchestrator.models.base import Batch, Sample
from orchestrator.models.text_scores import Spell
from orchestrator.own_code import OwnCode
from orchestrator.planning.patience import Patience
from orchestrator.planning.plan import Plan
from orchestrator.rank import Rank, assemble
from orchestrator.records import RunRecord
from orchestrator.recovery.beats import beating, heart
from orchestrator.recovery.hangs import PATIENCE
from orchestrator.recovery.notice import NoticeBoard, drain_own_node
from orchestrator.runs import Best
from orchestrator.telemetry.rank_log import kept_log
from orchestrator.telemetry.reporter import Reporter, Teller, open_reporter
from orchestrator.telemetry.sample_time import SHARE, SampleTime
from orchestrator.telemetry.spikes import Spike, SpikeWatch, too_many

logger = logging.getLogger("orchestrator")


class Closing(Protocol):
    """What is opened once and closed once."""

    def close(self) -> None:
        """Give back what it holds."""
        ...


Opened = TypeVar("Opened", bound=Closing)

_SAMPLES = 16
"""Generated samples that are logged at a time."""


@dataclass(frozen=True)
class Seat:
    """Of which rank, in which attempt, somebody watches the loop."""

    storage: str
    """Root of the run's files."""
    rank: int
    world_size: int
    attempt: int
    start_step: int
    """The step that the attempt goes on from."""


Watch = Callable[
    [Iterator[loop.Step], loop.Surroundings, Seat], tuple[Iterator[loop.Step], loop.Surroundings]
]
"""Stands between the loop and what is around it: gives back what the loop is given."""


def unwatched(
    steps: Iterator[loop.Step], around: loop.Surroundings, seat: Seat
) -> tuple[Iterator[loop.Step], loop.Surroundings]:
    """Nobody stands there."""
    return steps, around


def run(config: Mapping[str, Any], watch: Watch = unwatched) -> dict[str, Any]:
    """Train on this worker. Called by Ray Train on every worker of the group, once for each attempt.

    Args:
        config: ``plan`` and ``prepared`` as JSON text, ``launch``, and ``started_at`` (the driver's start, in seconds
            since the epoch).
        watch: who stands between the loop and its surroundings.

    Returns:
        The step reached, whether the run was stopped, the newest of each loss and metric (where no step was left to
        take, those of the checkpoint), and the attempt.

    """
    while True:
        try:
            return _attempt(config, watch)
        except _RewoundError:
            gc.collect()  # the model that was left is not held beside the next one


class _RewoundError(Exception):
    """The attempt has ended so that another one leaves a batch out."""


def _attempt(config: Mapping[str, Any], watch: Watch) -> dict[str, Any]:
    """From the newest checkpoint on. Raises _RewoundError, on every rank."""
    whole = Plan.model_validate_json(config["plan"])
    prepared = Prepared.model_validate_json(config["prepared"])
    peers, root = Peers(PATIENCE * whole.job.recovery.hang_timeout), f"{whole.storage}/checkpoints"
    plan = whole.with_workers(peers.world_size)
    attempt = peers.agree(lambda: checkpoint.next_attempt(root))
    heart.begins(attempt)
    with contextlib.ExitStack() as held:
        own_log = held.enter_context(kept_log(plan.storage, attempt, peers.rank))
        teller = Teller(attempt, own_log if peers.rank else None)
        teller.doing("building the model")
        newest = peers.agree(partial(_where_to_go_on, plan, root, int(config["launch"])))
        there = peers.agree(lambda: checkpoint.committed(root))
        rank = held.enter_context(closing(assemble(plan)))
        checkpoints = Checkpoints(
            root, attempt=attempt, rank=peers.rank, world_size=peers.world_size, group=peers.group
        )
        held.enter_context(closing(checkpoints))
        events.emit("worker", rank=peers.rank, pid=os.getpid(), host=socket.gethostname(), attempt=attempt)
        code = own_code.code_of(plan.job.own_factories)
        left_out = sorted({*plan.job.recovery.leave_out, *peers.agree(RunRecord(plan.storage).left_out)})
        if newest is not None:
            teller.doing("reading the checkpoint")
        start_step, skipped = _go_on_from(newest, rank, prepared, attempt, code)
        _check_left_out(newest, left_out)
        if peers.rank == 0:
            RunRecord(plan.storage).keep_code(code)
        reporter = held.enter_context(
            open_reporter(
                whole,
                prepared,
                teller=teller,
                rank=peers.rank,
                attempt=attempt,
                launch=int(config["launch"]),
                start_step=start_step,
                started_at=float(config["started_at"]),
            )
        )
        teller.doing("reading the first batches")
        with closing(rank.open_train(prepared, start_step=start_step, skipped=skipped)) as stream, leaving():
            ranking = _ranking(plan, there)
            worker = Worker(
                rank,
                prepared,
                stream,
                checkpoints,
                ranking,
                peers,
                reporter,
                launch=int(config["launch"]),
                code_digest=code.digest,
                patience=Patience(plan.job.training.stop_early, newest.meta["stop_early"] if newest else {}),
                notices=NoticeBoard(plan.notice_file),
                left_out=left_out,
                spikes=SpikeWatch(
                    plan.job.recovery.on_spike,
                    rank.objective.phases,
                    rank.engine.device,
                    newest.meta["spikes"] if newest else {},
                ),
            )
            steps = beating(rank.on_device(stream), start_step)
            seat = Seat(plan.storage, rank.number, rank.world_size, attempt, start_step)
            watched, around = watch(steps, worker, seat)
            outcome = loop.train(plan, rank.engine, rank.objective, watched, around, start_step)
            if outcome.rewinds is not None:
                worker.leave_out(outcome.rewinds)
                raise _RewoundError
        worker.finish(outcome)
    return {
        "step": outcome.step,
        "stopped": outcome.stopped,
        "enough": outcome.enough,
        "metrics": {**(newest.meta["metrics"] if newest else {}), **outcome.metrics},
        "attempt": attempt,
    }


@contextlib.contextmanager
def closing(opened: Opened) -> Iterator[Opened]:
    """Closed at the end. An error on the way out never takes the place of the one that is why: a GPU that has failed
    answers everything from then on with errors.
    """
    try:
        yield opened
    except BaseException:
        try:
            opened.close()
        except Exception as second:
            logger.warning("and then, while ending: %s: %s", type(second).__name__, second)
        raise
    opened.close()


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """An attempt that an error ends waits on its way out, for the tracker say: that is no hang, which would hide the error."""
    try:
        yield
    except BaseException:
        heart.passes("the end, after an error", may_take_long=True)
        raise


def _where_to_go_on(plan: Plan, root: str, launch: int) -> Checkpoint | None:
    """The newest good checkpoint. As long as the launch has none of its own: the one that it was told to start from.

    Raises:
        NotFoundError: there is no such checkpoint.

    """
    newest = checkpoint.newest_good(root)
    if newest is None or newest.meta["launch"] >= launch or plan.resume_from == checkpoint.NEWEST:
        return newest
    found = checkpoint.chosen(root, plan.resume_from)
    logger.info(
        "launch %d goes back to the checkpoint of %s", launch, checkpoint.described(found, plan.resume_from)
    )
    return found


def _ranking(plan: Plan, there: Iterable[Checkpoint]) -> Ranking:
    """The best so far, by what the job keeps checkpoints by."""
    keep = plan.job.checkpoint.keep
    return Ranking(best=keep.best, metric=keep.metric, mode=keep.mode, checkpoints=there)


def _go_on_from(
    newest: Checkpoint | None, rank: Rank, prepared: Prepared, attempt: int, code: OwnCode
) -> tuple[int, Collection[int]]:
    """Load what there is; the step to go on from, and the samples that were left out up to there.

    Raises:
        DataError: the training data has changed, and that is not accepted, or its numbers stand for something else.
        SpecError: the job's own code has changed, and that is not accepted.

    """
    if newest is None:
        if rank.number == 0 and (again := _taken_again(rank.plan.storage, 0)):
            logger.info("attempt %d begins anew, since there is no checkpoint%s", attempt, again)
        return 0, ()
    _check_code(newest, rank, code)
    change = data.describe_change(newest.meta["identity"], prepared.identity)
    if change is not None:
        said = f"the training data is not what the checkpoint of step {newest.step} was trained on: {change}"
        if not rank.plan.job.recovery.accept_changed_data:
            raise DataError(f"{said}; put it back, or go on with --set recovery.accept_changed_data=true")
        meaning = data.changed_meaning(newest.meta["identity"]["meaning"], prepared.identity["meaning"])
        if meaning is not None:
            raise DataError(
                f"{said}, and what the model learned of it stands for something else: {meaning}; put it back, or start"
                " another run"
            )
        if rank.number == 0:
            logger.warning("%s; going on, as recovery.accept_changed_data says", said)
    rank.load(newest)
    if rank.number == 0:
        again = _taken_again(rank.plan.storage, newest.step)
        logger.info("attempt %d goes on from the checkpoint of step %d%s", attempt, newest.step, again)
    return newest.step, newest.meta.get("skipped", ()) if change is None else ()


def _check_left_out(newest: Checkpoint | None, left_out: Collection[int]) -> None:
    """Raises SpecError where a checkpoint was trained with a step that is to be left out, or without one that is not."""
    if newest is None:
        return
    trained_without = set(newest.meta["left_out"])
    if changed := trained_without ^ {step for step in left_out if step <= newest.step}:
        raise SpecError(
            f"recovery.leave_out: step {min(changed)} lies before the checkpoint of step {newest.step}, which was trained"
            f" with{'out' if min(changed) in trained_without else ''} it; resume from an older one (--from), or leave that as it was"
        )


def _taken_again(storage: str, step: int) -> str:
    """What an attempt that goes on after a step has lost, as the end of a sentence; empty where that is nothing."""
    reached = RunRecord(storage).reached()
    return f"; steps {step + 1} to {reached} are taken again" if reached > step else ""


def _check_code(newest: Checkpoint, rank: Rank, code: OwnCode) -> None:
    """Raises SpecError where the job's own code is not what the checkpoint was trained with, and that is not accepted."""
    if newest.meta["code"] == code.digest:
        return
    kept = RunRecord(rank.plan.storage).code(newest.meta["code"])
    said = (
        f"the job's own code is not what the checkpoint of step {newest.step} was trained with:"
        f" {', '.join(kept.differs_in(code))} changed"
    )
    if not rank.plan.job.recovery.accept_changed_code:
        raise SpecError(f"{said}; put it back, or go on with --set recovery.accept_changed_code=true")
    if rank.number == 0:
        logger.warning("%s; going on, as recovery.accept_changed_code says", said)


def skipped_by_all(stream: TrainStream, peers: Peers) -> list[int]:
    """Bad samples that the job left out, on any rank in any attempt. Collective.

    Raises:
        DataError: they are too many; on every rank.

    """
    stream.count_skipped(peers.union(stream.skipped))
    return stream.skipped


class Worker:
    """The loop's surroundings on one rank: see ``loop.Surroundings``."""

    def __init__(
        self,
        rank: Rank,
        prepared: Prepared,
        stream: TrainStream,
        checkpoints: Checkpoints,
        ranking: Ranking,
        peers: Peers,
        reporter: Reporter,
        *,
        launch: int,
        code_digest: str,
        patience: Patience,
        notices: NoticeBoard,
        left_out: Collection[int],
        spikes: SpikeWatch,
    ) -> None:
        self._plan, self._rank, self._prepared, self._stream = rank.plan, rank, prepared, stream
        self._checkpoints, self._ranking = checkpoints, ranking
        self._peers, self._reporter, self._launch = peers, reporter, launch
        self._code_digest, self._patience = code_digest, patience
        self.left_out, self.spikes = left_out, spikes
        self._evaluation = rank.open_eval(prepared)
        self._token_bytes = data.token_bytes_of(self._plan.job, prepared)
        self._spell = data.spell_of(self._plan.job, prepared)
        self._class_names = data.inputs_of(self._plan.job, prepared).classes
        self._notices = notices
        heeds = self._plan.job.recovery.on_notice == "save"
        self._notice = lambda: notices.said() if heeds else ""
        self._stop_check = StopCheck(
            peers, reporter.stop_asked, lambda: bool(notices.asked_to_leave or self._notice())
        )
        self._sample_time = SampleTime()
        self._sounds_shown = False

    def evaluation(self) -> Generator[Batch]:
        """The evaluation set's batches on the device."""
        assert self._evaluation is not None
        for arrays in self._evaluation.batches():
            heart.passes("an evaluation", may_take_long=True)
            yield self._rank.to_device(self._rank.to_tensors(arrays))

    def class_names(self) -> Sequence[str]:
        """As the training data has them."""
        return self._class_names

    def token_bytes(self) -> np.ndarray[Any, Any] | None:
        """Of the training data's tokenizer."""
        return self._token_bytes

    def spell(self) -> Spell | None:
        """By the training data's tokenizer."""
        return self._spell

    def enough(self, measured: dict[str, float]) -> str:
        """Whether ``training.stop_early`` ends it: rank 0 decides."""
        if measured:
            self._patience.note(measured)
        return self._peers.agree(self._patience.end)

    def is_best(self, metrics: dict[str, float]) -> bool:
        """Whether retention would keep a checkpoint with these metrics as one of the best: rank 0 decides."""
        return self._peers.agree(lambda: self._ranking.admits(metrics))

    def save(self, step: int, metrics: dict[str, float]) -> None:
        """Write a checkpoint, and let go of those that are not to be kept."""
        heart.passes(f"the save of step {step}", may_take_long=True)
        job = self._plan.job
        skips = job.data.skip_bad_samples > 0
        meta = {
            "step": step,
            "launch": self._launch,
            "identity": self._prepared.identity,
            "code": self._code_digest,
            ADAPTERS: self._rank.about_adapters(),
            "stop_early": self._patience.state(),
            "left_out": [one for one in self.left_out if one <= step],
            "spikes": self.spikes.state(),
            "seed": job.training.seed,
            "position": step * job.training.global_batch_size,
            "skipped": skipped_by_all(self._stream, self._peers) if skips else self._stream.skipped,
            "plan_digest": self._plan.digest,
            "scalars": self._rank.engine.scalars(),
            "metrics": metrics,
            "best_by": job.checkpoint.keep.model_dump(include={"metric", "mode"}),
            "inputs": [layout.name for layout in self._prepared.train[0].layouts],
            "model": job.model.model_dump(mode="json"),
            "objective": job.objective.model_dump(mode="json"),
        }
        state = self._rank.engine.state()
        self._reporter.saving()
        stall = self._checkpoints.save(step, state, meta, asynchronous=job.checkpoint.asynchronous)
        self._ranking.add(step, metrics)
        self._prune()
        self._reporter.saved(step, stall, self._best())

    def _best(self) -> Best | None:
        first = self._ranking.first()
        metric = self._plan.job.checkpoint.keep.metric
        return Best(step=first[0], metric=metric, value=first[1]) if first else None

    def before_update(self) -> None:
        """Wait for the copy that the last save makes."""
        heart.passes("an update")
        self._reporter.stalled(self._checkpoints.wait_until_copied())

    def _prune(self) -> None:
        keep = self._plan.job.checkpoint.keep
        self._checkpoints.prune(last=keep.last, best=keep.best, metric=keep.metric, mode=keep.mode)

    def show_samples(self, step: int) -> None:
        """Log what the model generates, where the family generates something and there is time for it: at the end always."""
        if self._evaluation is None:
            return
        heart.passes(f"samples after step {step}", may_take_long=True)
        if step < self._plan.total_steps and not self._peers.agree(self._sample_time.is_left):
            if self._peers.rank == 0:
                logger.info("no samples at step %d: they have had %.0f %% of the time", step, 100 * SHARE)
            return
        with self._sample_time.spent():
            with contextlib.closing(self.evaluation()) as batches:
                batch = next(batches)
            with loop.evaluating(self._rank.engine):
                samples = self._rank.objective.samples(self._rank.engine.modules, batch, _SAMPLES)
            self._reporter.generated(step, [*samples, *(self._sounds_of(batch) if samples else ())])

    def _sounds_of(self, batch: Batch) -> Iterator[Sample]:
        """What the samples were made of, where that is sounds: once, since they are the same after each step."""
        if self._peers.rank == 0 and not self._sounds_shown:
            self._sounds_shown = True
            for sound in data.raw_sounds(self._prepared, batch["sample_id"].tolist()):
                yield Sample(str(sound.number), "sound", sound.wave, rate=sound.rate)

    def show_confusion(self, step: int, matrix: np.ndarray[Any, Any]) -> None:
        """Log it as a picture."""
        names = self._class_names
        if len(names) != len(matrix):
            names = tuple(str(number) for number in range(len(matrix)))
        self._reporter.generated(step, [Sample("confusion_matrix", "matrix", matrix, names)])

    def stop_requested(self, step: int) -> bool:
        """Whether somebody asked for a stop, or a rank has notice that it will be taken away."""
        heart.has_taken(step)
        if self._rank.engine.device.type == "cpu":
            heart.catches_up()
        return self._stop_check.requested(step)

    def log(self, step: int, values: dict[str, float], seconds: dict[str, float]) -> None:
        """Metrics of a step, told by rank 0."""
        heart.catches_up()
        self._reporter.logged(step, values, seconds)

    def again(self, step: int) -> Sequence[Batch]:
        """This rank's micro-batches of a step, from a stream of their own."""
        with contextlib.closing(
            self._rank.open_train(self._prepared, start_step=step - 1, skipped=self._stream.skipped)
        ) as stream:
            return next(self._rank.on_device(stream)).micros

    def place(self, sample: int) -> str:
        """File and row of a training sample."""
        return data.place_of(self._prepared.train, sample)

    def spiked(self, spike: Spike) -> None:
        """Tell of it."""
        assert self.spikes.spec is not None
        then = {
            "skip_batch": "its update was left out",
            "rewind": "going back to the last checkpoint, to leave its batch out",
        }
        if self._peers.rank == 0:
            said = then[self.spikes.spec.action]
            events.emit("spike", step=spike.step, loss=str(spike.loss), message=spike.told(), then=said)

    def leave_out(self, spike: Spike) -> None:
        """Have all attempts from now on leave a step out, once the last checkpoint is there. Collective.

        Raises:
            UserCodeError: too many would be.
        """
        spec, record = self.spikes.spec, RunRecord(self._plan.storage)
        assert spec is not None

        def note() -> None:
            if len(record.left_out()) >= spec.most:
                raise UserCodeError(too_many(spec, spike))
            record.leave_out(spike.step)

        self._checkpoints.wait()
        self._peers.agree(note)

    def finish(self, outcome: loop.Outcome) -> None:
        """Wait for the last checkpoint, and close what is reported. Collective.

        Raises:
            NoticeError: the loop ended since a rank has notice; the tracker's run stays open for who goes on.
            ResizeError: the loop ended since the group is to have another size or another head; likewise.

        """
        heart.passes("the end", may_take_long=True)
        self._checkpoints.wait()
        self._prune()
        leaves = outcome.stopped and self._stop_check.leaves
        if leaves and not self._peers.agree(
            self._reporter.stop_asked
        ):  # who stops a machine may tell all at once
            if self._notices.file_says_so:
                drain_own_node()
            told = self._peers.of_all(self._notice())  # and so nobody leaves before all has been committed
            asked = self._peers.of_all(self._notices.asked_to_leave)
            if not any(told):
                raise ResizeError(
                    f"{next(filter(None, asked))}: step {outcome.step} is saved, no step is lost"
                )
            raise NoticeError(left_on_notice(told, outcome.step))
        self._reporter.ending()
        self._peers.agree(lambda: None)  # rank 0 closes what all write to
        self._reporter.finished(stopped=outcome.stopped)


def left_on_notice(told: Sequence[str], step: int) -> str:
    """One sentence on who will be taken away, and what is safe.

    Args:
        told: by rank what it has been told; empty of those that stay.
        step: the last one that was taken.

    """
    who = "; ".join(f"worker {rank} will be taken away ({said})" for rank, said in enumerate(told) if said)
    return f"{who}: step {step} is saved, no step is lost"
