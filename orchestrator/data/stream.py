"""What the loop reads from: steps of training and batches of evaluation, made ready ahead of it."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from orchestrator.data.blocks import EvaluationBlocks, TrainingBlocks, block_bounds
from orchestrator.data.prepared import Prepared, PreparedSource
from orchestrator.data.tensors import TensorLayout, finished
from orchestrator.data.transforms import Batch
from orchestrator.errors import DataError
from orchestrator.planning.plan import Plan

_LOGGER = logging.getLogger(__name__)
KEPT_EVALUATION_BYTES = 2**28
"""An evaluation set whose share of a rank is smaller stays in memory after the first evaluation."""


@dataclass(frozen=True)
class StepBatch:
    """One rank's share of one global batch."""

    micros: list[Batch]
    """Micro-batches; the first dimension of each array is the sample. ``sample_id`` and ``sample_seed`` are int64
    (the id is -1 for padding); ``weight`` float32 is there only where the global step is padded."""
    samples: int
    """Samples of the global batch that are not padding."""
    padded: bool
    """Whether the global batch has padding, on this rank or another."""
    epoch: float
    """Passes over the training data after this step."""


class Blocks(Protocol):
    """What can be read block by block."""

    stop: int
    samples: int
    most_steps: int

    def find(self, first_step: int, stop_step: int) -> Callable[[], Batch]:
        """Read what a block needs. What is returned makes the block of it, on any thread."""
        ...


def read_here(
    blocks: Blocks, first_step: int, layouts: Sequence[TensorLayout], *, threads: int
) -> Generator[Batch, None, None]:
    """The transport that is none: read in this process, in order, as the loop gets it.

    Args:
        threads: so many blocks are decoded at once, while this thread reads for the next; 0: this thread does it all.
    """

    def made(decode: Callable[[], Batch]) -> Batch:
        return finished(decode(), layouts)

    bounds = block_bounds(first_step, blocks.stop, blocks.most_steps)
    if threads == 0:
        for first, stop in bounds:
            yield made(blocks.find(first, stop))
        return
    pool, pending = ThreadPoolExecutor(threads, thread_name_prefix="data-decode"), deque[Future[Batch]]()
    most = 0  # the first block is not to wait for what the second needs
    try:
        for first, stop in bounds:
            pending.append(pool.submit(made, blocks.find(first, stop)))
            while len(pending) > most or (pending and pending[0].done()):
                yield pending.popleft().result()
                most = threads
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class TrainStream:
    """Iterates over ``StepBatch`` from a step on. Close it to end its thread and its reading."""

    def __init__(
        self,
        prepared: Prepared,
        plan: Plan,
        source: Generator[Batch, None, None],
        *,
        start_step: int,
        steps_per_block: int,
        skipped: Collection[int] = (),
    ) -> None:
        self._prepared, self._plan, self._step = prepared, plan, start_step
        ahead = blocks_ahead(plan, steps_per_block)
        self._blocks = ahead_of(source, ahead)
        self._block: Batch = {}
        self._next = self._length = 0
        self._bad = BadSamples(prepared.train, plan.job.data.skip_bad_samples, skipped)

    def __iter__(self) -> TrainStream:
        return self

    def __next__(self) -> StepBatch:
        if self._next == self._length:
            self._block = next(self._blocks)
            self._next, self._length = 0, len(self._block["weight"])
        here = {name: values[self._next] for name, values in self._block.items()}
        real = self._real_samples(self._step)
        batch = self._plan.job.training.global_batch_size
        # Ranks don't tell each other of bad samples, so where these are skipped every step may have some.
        padded = real < batch or self._plan.job.data.skip_bad_samples > 0
        self._bad.check(here)
        if not padded:
            del here["weight"]
        micro = self._plan.micro_batch_size
        rows = len(here["sample_id"])
        micros = [
            {name: values[start : start + micro] for name, values in here.items()}
            for start in range(0, rows, micro)
        ]
        self._next += 1
        self._step += 1
        return StepBatch(micros, real, padded, self._step / self._prepared.steps_per_epoch)

    @property
    def skipped(self) -> list[int]:
        """Ids of the samples that were left out so far: those of this rank, and those it was told of."""
        return sorted(self._bad.seen)

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
        self._blocks.close()


def finish(
    source: Generator[Batch, None, None], layouts: Sequence[TensorLayout]
) -> Generator[Batch, None, None]:
    """Blocks in the types that the loop gets; in this process, so that less is carried to it."""
    try:
        for block in source:
            yield finished(block, layouts)
    finally:
        source.close()


def blocks_ahead(plan: Plan, steps_per_block: int) -> int:
    """Blocks that hold the batches to be made ready, and one while the next is being made."""
    batches = plan.job.data.prefetch_batches
    return -(-batches // steps_per_block) + 1 if batches else 0


def decoding_threads(plan: Plan) -> int:
    """Threads of a worker that decode and transform; none where nothing is to be made ready ahead."""
    return plan.job.data.reader_tasks if plan.job.data.prefetch_batches else 0


def ahead_of(source: Generator[Batch, None, None], count: int) -> Prefetched | Generator[Batch, None, None]:
    """The same items, up to ``count`` of them made ready ahead by a thread; 0: none is."""
    return Prefetched(source, count) if count else source


class Prefetched:
    """Iterates over what a thread has taken from an iterator, a bounded number ahead; its errors come out here."""

    def __init__(self, source: Generator[Any, None, None], ahead: int) -> None:
        self._source = source
        self._ready: queue.Queue[tuple[str, Any]] = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="data-prefetch", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            for item in self._source:
                if not self._put(("item", item)):
                    return
            self._put(("end", None))
        except BaseException as error:  # whatever it is, the loop's thread has to raise it
            self._put(("error", error))
        finally:
            self._source.close()

    def _put(self, message: tuple[str, Any]) -> bool:
        while not self._closed.is_set():
            try:
                self._ready.put(message, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Prefetched:
        return self

    def __next__(self) -> Any:
        kind, value = self._ready.get()
        if kind == "item":
            return value
        # Stays there for whoever asks again.
        self._ready.put((kind, value))
        if kind == "error":
            raise value
        raise StopIteration

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(timeout=0.05)


class BadSamples:
    """Counts the different samples that came with weight zero though they are no padding, up to what is allowed."""

    def __init__(self, sources: Sequence[PreparedSource], most: int, seen: Collection[int] = ()) -> None:
        self._sources, self._most = sources, most
        self.seen = set(seen)

    def check(self, batch: Batch) -> None:
        """Raises DataError once there are more than allowed."""
        if not self._most:
            return
        for sample in batch["sample_id"][(batch["weight"] == 0) & (batch["sample_id"] >= 0)].tolist():
            if sample in self.seen:
                continue
            self.count([sample])
            _LOGGER.warning(
                "skipped sample %d: %s (%d of at most %d)",
                sample,
                self._place(sample),
                len(self.seen),
                self._most,
            )

    def count(self, samples: Collection[int]) -> None:
        """Add samples, those that were counted once only. Raises DataError once there are more than allowed."""
        for sample in samples:
            self.seen.add(sample)
            if len(self.seen) > self._most:
                raise DataError(
                    f"{self._place(sample)} can't be read, and more than data.skip_bad_samples ({self._most}) samples"
                    " can't; mend the data, or allow more"
                )

    def _place(self, sample: int) -> str:
        source = max((s for s in self._sources if s.first_id <= sample), key=lambda s: s.first_id)
        row = sample - source.first_id
        group = int(np.searchsorted(source.index.group_starts, row, side="right")) - 1
        return source.index.where(group, row - int(source.index.group_starts[group]))


class EvalStream:
    """The evaluation set of one rank, as often as asked for."""

    def __init__(self, prepared: Prepared, plan: Plan, *, rank: int, world_size: int) -> None:
        self._prepared = prepared
        assert prepared.evaluation is not None
        self._bad = BadSamples((prepared.evaluation,), plan.job.data.skip_bad_samples)
        self._make = lambda: EvaluationBlocks(prepared, plan, rank=rank, world_size=world_size)
        blocks = self._make()
        self._batches = blocks.stop
        self._ahead = blocks_ahead(plan, blocks.most_steps)
        self._threads = decoding_threads(plan)
        self._keeps = blocks.stop * blocks.samples * prepared.sample_bytes <= KEPT_EVALUATION_BYTES
        self._kept: list[Batch] | None = None

    def batches(self) -> Iterator[Batch]:
        """One evaluation: as many batches of the same size on every rank, each sample real once over all ranks.

        ``weight`` float32 is there where a batch has padding.
        """
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[Batch] = []
        layouts = self._prepared.train[0].layouts
        source = ahead_of(read_here(self._make(), 0, layouts, threads=self._threads), self._ahead)
        try:
            for block in source:
                for index in range(len(block["weight"])):
                    batch = {name: values[index] for name, values in block.items()}
                    self._bad.check(batch)
                    if batch["weight"].all():
                        del batch["weight"]
                    if self._keeps:
                        kept.append(batch)
                    yield batch
        finally:
            source.close()
        if self._keeps:
            self._kept = kept

    def __len__(self) -> int:
        return self._batches


def open_train(
    prepared: Prepared,
    plan: Plan,
    *,
    rank: int,
    world_size: int,
    start_step: int,
    skipped: Collection[int] = (),
) -> TrainStream:
    """This rank's steps ``start_step`` (0: from the beginning) to ``plan.total_steps``. Nothing before is read.

    Args:
        skipped: ids of the bad samples that the job left out before, by any rank.
    """
    if prepared.train_samples == 0 or prepared.steps_per_epoch == 0:
        raise DataError("data.train: there is no full batch of training samples")
    blocks = TrainingBlocks(prepared, plan, rank=rank, world_size=world_size)
    layouts = prepared.train[0].layouts
    if plan.job.data.reader == "ray":
        from orchestrator.data.ray_reader import read_with_ray

        carried = read_with_ray(
            prepared, plan, blocks, rank=rank, world_size=world_size, first_step=start_step
        )
        source = finish(carried, layouts)
    else:
        source = read_here(blocks, start_step, layouts, threads=decoding_threads(plan))
    return TrainStream(
        prepared,
        plan,
        source,
        start_step=start_step,
        steps_per_block=blocks.most_steps,
        skipped=skipped,
    )


def open_eval(prepared: Prepared, plan: Plan, *, rank: int, world_size: int) -> EvalStream:
    """This rank's share of the evaluation set."""
    if prepared.evaluation is None:
        raise DataError("data.eval: there is nothing to evaluate on")
    return EvalStream(prepared, plan, rank=rank, world_size=world_size)


def step_ids(block: Batch) -> np.ndarray:
    """Ids of the real samples of a block, for tests and audits."""
    return block["sample_id"][block["weight"] > 0]
