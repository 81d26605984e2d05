"""The training stream: steps as the loop takes them, with nothing left to do when it does."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Generator
from dataclasses import dataclass
from typing import Any

from orchestrator.data.columns.layout import for_device
from orchestrator.data.prepared import Prepared
from orchestrator.data.reading.bad_samples import BadSamples, bad_samples_of
from orchestrator.data.reading.prefetch import ahead_of
from orchestrator.data.reading.training_chunks import TrainingChunks
from orchestrator.data.reading.worker_reader import chunks_ahead, decoding_threads, read_here
from orchestrator.data.transforms import Batch
from orchestrator.errors import DataError
from orchestrator.planning.plan import Plan


@dataclass(slots=True)
class StepBatch:
    """One rank's share of one global batch."""

    micros: list[Any]
    """Micro-batches, each as ``ready`` made it: else named arrays whose first dimension is the sample. ``sample_id`` and
    ``sample_seed`` are int64 (the id is -1 for padding); ``weight`` float32 is there only where the global step is
    padded."""
    samples: int
    """Samples of the global batch that are not padding."""
    padded: bool
    """Whether the global batch has padding, on this rank or another."""
    epoch: float
    """Passes over the training data after this step."""
    tokens: int
    """Tokens of the global batch, 0 where the data has none."""


_Step = tuple[StepBatch, list[int]]
"""A step, and the samples of this rank's share that were left out of it."""


class TrainStream:
    """Iterates over ``StepBatch`` from a step on. Close it to end its thread and its reading."""

    def __init__(
        self,
        prepared: Prepared,
        plan: Plan,
        source: Generator[list[Batch], None, None],
        *,
        start_step: int,
        steps_per_chunk: int,
        ready: Callable[[Batch], Any] = lambda micro: micro,
        skipped: Collection[int] = (),
    ) -> None:
        self._prepared, self._plan, self._ready = prepared, plan, ready
        self._bad = BadSamples(prepared.train, plan.job.data.skip_bad_samples, skipped)
        self._chunk: list[_Step] = []
        self._next = 0
        self._spent: deque[list[_Step]] = deque()
        # Last: it starts a thread that needs the rest.
        self._chunks = ahead_of(
            self._steps_of_chunks(source, start_step), chunks_ahead(plan, steps_per_chunk)
        )

    def __iter__(self) -> TrainStream:
        return self

    def __next__(self) -> StepBatch:
        if self._next == len(self._chunk):
            chunk = next(self._chunks)
            self._spent.append(self._chunk)
            self._chunk, self._next = chunk, 0
        step, bad = self._chunk[self._next]
        self._next += 1
        self._bad.check(bad)
        return step

    def _steps_of_chunks(
        self, source: Generator[list[Batch], None, None], step: int
    ) -> Generator[list[_Step], None, None]:
        """The steps of each chunk, with nothing left to do for the loop's thread. Runs on the reading thread.

        That frees them too, once the loop has let go of the last: freeing tensors gives the interpreter's lock away, and
        decoding threads keep it for milliseconds.
        """
        try:
            for chunk in source:
                while len(self._spent) > 1:
                    self._spent.popleft()
                yield [self._step(share, step + index) for index, share in enumerate(chunk)]
                step += len(chunk)
        finally:
            source.close()

    def _step(self, share: Batch, step: int) -> _Step:
        skips = self._plan.job.data.skip_bad_samples > 0
        bad = bad_samples_of(share) if skips else []
        real, rows = self._real_samples(step), len(share["sample_id"])
        batch = self._plan.job.training.global_batch_size
        # Ranks don't tell each other of bad samples, so where these are skipped every step may have some.
        padded = real < batch or skips
        if not padded:
            del share["weight"]
        size = self._plan.micro_batch_size
        micros = [
            self._ready({name: values[start : start + size] for name, values in share.items()})
            for start in range(0, rows, size)
        ]
        tokens = share["tokens"].size // rows * batch if "tokens" in share else 0
        epoch = (step + 1) / self._prepared.steps_per_epoch
        return StepBatch(micros, real, padded, epoch, tokens), bad

    @property
    def skipped(self) -> list[int]:
        """Ids of the samples that were left out so far: those of this rank, and those it was told of."""
        return sorted(self._bad.ids)

    def count_skipped(self, samples: Collection[int]) -> None:
        """Count what other ranks left out too, so that the limit is the job's. Raises DataError past it."""
        self._bad.count(samples)

    def _real_samples(self, step: int) -> int:
        real = 0
        for source in self._prepared.train:
            assert source.order is not None
            done = step % source.order.steps * source.order.batch
            real += min(source.order.batch, source.order.samples - done)
        return real

    def close(self) -> None:
        """Stop reading. Safe to call twice."""
        self._chunks.close()


def open_train(
    prepared: Prepared,
    plan: Plan,
    *,
    rank: int,
    world_size: int,
    start_step: int,
    ready: Callable[[Batch], Any] = lambda micro: micro,
    skipped: Collection[int] = (),
) -> TrainStream:
    """This rank's steps ``start_step`` (0: from the beginning) to ``plan.total_steps``. Nothing before is read.

    Args:
        ready: what the loop gets of a micro-batch; called ahead of it, on the reading thread. Its errors come out where
            the loop asks for the step.
        skipped: ids of the bad samples that the job left out before, by any rank.
    """
    if prepared.train_samples == 0 or prepared.steps_per_epoch == 0:
        raise DataError("data.train: there is no full batch of training samples")
    chunks = TrainingChunks(prepared, plan, rank=rank, world_size=world_size)
    if plan.job.data.reader == "ray":
        from orchestrator.data.reading.ray_reader import read_with_ray

        source = read_with_ray(
            prepared, plan, chunks, rank=rank, world_size=world_size, first_step=start_step
        )
    else:
        layouts = for_device(prepared.train[0].layouts, is_gpu=bool(plan.job.scaling.gpus_per_worker))
        source = read_here(chunks, start_step, layouts, threads=decoding_threads(plan))
    return TrainStream(
        prepared,
        plan,
        source,
        start_step=start_step,
        steps_per_chunk=chunks.most_steps,
        ready=ready,
        skipped=skipped,
    )
