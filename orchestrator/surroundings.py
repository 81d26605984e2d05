"""What is around the loop on one rank: its evaluation, checkpoints, samples, reports and notices."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Generator, Iterator, Sequence
from typing import Any

import numpy as np

from orchestrator import data, events, loop
from orchestrator.checkpoint import Checkpoints, Ranking
from orchestrator.checkpoint.start import ADAPTERS
from orchestrator.control import Peers, StopCheck
from orchestrator.data import Prepared, TrainStream
from orchestrator.errors import NoticeError, ResizeError, UserCodeError
from orchestrator.models.base import Batch, Sample
from orchestrator.models.text_scores import Spell
from orchestrator.planning.patience import Patience
from orchestrator.rank import Rank
from orchestrator.records import RunRecord
from orchestrator.recovery.beats import heart
from orchestrator.recovery.notice import NoticeBoard, drain_own_node
from orchestrator.runs import Best
from orchestrator.telemetry.reporter import Reporter
from orchestrator.telemetry.sample_time import SHARE, SampleTime
from orchestrator.telemetry.spikes import Spike, SpikeWatch, too_many

logger = logging.getLogger("orchestrator")

_SAMPLES = 16
"""Generated samples that are logged at a time."""


def skipped_by_all(stream: TrainStream, peers: Peers) -> list[int]:
    """Bad samples that the job left out, on any rank in any attempt. Collective.

    Raises:
        DataError: they are too many; on every rank.

    """
    stream.count_skipped(peers.union(stream.skipped))
    return stream.skipped


class RankSurroundings:
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
