"""What the loop reads from: steps of training and batches of evaluation, made ready ahead of it."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from orchestrator.data.prepared import Prepared, PreparedSource
from orchestrator.data.reading.blocks import EvaluationBlocks, TrainingBlocks, block_bounds
from orchestrator.data.tensors import TensorLayout, finished_steps
from orchestrator.data.transforms import Batch
from orchestrator.errors import DataError
from orchestrator.planning.plan import Plan

T = TypeVar("T")
_LOGGER = logging.getLogger(__name__)
KEPT_EVALUATION_BYTES = 2**28
"""An evaluation set whose share of a rank is smaller stays in memory after the first evaluation."""


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


_Made = tuple[StepBatch, list[int]]
"""A step, and the samples of this rank's share that were left out of it."""


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
) -> Generator[list[Batch], None, None]:
    """The transport that is none: read in this process, in order, the steps of each block as the loop gets them.

    Args:
        threads: so many blocks are decoded at once, while this thread reads for the next; 0: this thread does it all.
    """

    def made(decode: Callable[[], Batch]) -> list[Batch]:
        return finished_steps(decode(), layouts)

    bounds = block_bounds(first_step, blocks.stop, blocks.most_steps)
    if threads == 0:
        for first, stop in bounds:
            yield made(blocks.find(first, stop))
        return
    pool, pending = (
        ThreadPoolExecutor(threads, thread_name_prefix="data-decode"),
        deque[Future[list[Batch]]](),
    )
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
        source: Generator[list[Batch], None, None],
        *,
        start_step: int,
        steps_per_block: int,
        ready: Callable[[Batch], Any] = lambda micro: micro,
        skipped: Collection[int] = (),
    ) -> None:
        self._prepared, self._plan, self._ready = prepared, plan, ready
        self._bad = BadSamples(prepared.train, plan.job.data.skip_bad_samples, skipped)
        self._block: list[_Made] = []
        self._next = 0
        self._spent: deque[list[_Made]] = deque()
        # Last: it starts a thread that needs the rest.
        self._blocks = ahead_of(self._made(source, start_step), blocks_ahead(plan, steps_per_block))

    def __iter__(self) -> TrainStream:
        return self

    def __next__(self) -> StepBatch:
        if self._next == len(self._block):
            block = next(self._blocks)
            self._spent.append(self._block)
            self._block, self._next = block, 0
        step, left_out = self._block[self._next]
        self._next += 1
        self._bad.check(left_out)
        return step

    def _made(
        self, source: Generator[list[Batch], None, None], step: int
    ) -> Generator[list[_Made], None, None]:
        """The steps of each block, with nothing left to do for the loop's thread. Runs on the reading thread.

        That frees them too, once the loop has let go of the last: freeing tensors gives the interpreter's lock away, and
        decoding threads keep it for milliseconds.
        """
        try:
            for block in source:
                while len(self._spent) > 1:
                    self._spent.popleft()
                yield [self._step(here, step + index) for index, here in enumerate(block)]
                step += len(block)
        finally:
            source.close()

    def _step(self, here: Batch, step: int) -> _Made:
        skips = self._plan.job.data.skip_bad_samples > 0
        left_out = _left_out(here) if skips else []
        real, rows = self._real_samples(step), len(here["sample_id"])
        batch = self._plan.job.training.global_batch_size
        # Ranks don't tell each other of bad samples, so where these are skipped every step may have some.
        padded = real < batch or skips
        if not padded:
            del here["weight"]
        size = self._plan.micro_batch_size
        micros = [
            self._ready({name: values[start : start + size] for name, values in here.items()})
            for start in range(0, rows, size)
        ]
        tokens = here["tokens"].size // rows * batch if "tokens" in here else 0
        epoch = (step + 1) / self._prepared.steps_per_epoch
        return StepBatch(micros, real, padded, epoch, tokens), left_out

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
) -> Generator[list[Batch], None, None]:
    """The steps of blocks in the types that the loop gets; in this process, so that less is carried to it."""
    try:
        for block in source:
            yield finished_steps(block, layouts)
    finally:
        source.close()


def blocks_ahead(plan: Plan, steps_per_block: int) -> int:
    """Blocks that hold the batches to be made ready, and one while the next is being made."""
    batches = plan.job.data.prefetch_batches
    return -(-batches // steps_per_block) + 1 if batches else 0


def decoding_threads(plan: Plan) -> int:
    """Threads of a worker that decode and transform; none where nothing is to be made ready ahead."""
    return plan.job.data.reader_tasks if plan.job.data.prefetch_batches else 0


def ahead_of(source: Generator[T, None, None], count: int) -> Prefetched[T] | Generator[T, None, None]:
    """The same items, up to ``count`` of them made ready ahead by a thread; 0: none is."""
    return Prefetched(source, count) if count else source


class Prefetched(Generic[T]):
    """Iterates over what a thread has taken from an iterator, a bounded number ahead; its errors come out here."""

    def __init__(self, source: Generator[T, None, None], ahead: int) -> None:
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

    def __iter__(self) -> Prefetched[T]:
        return self

    def __next__(self) -> T:
        kind, value = self._ready.get()
        if kind == "item":
            item: T = value
            return item
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


def _left_out(batch: Batch) -> list[int]:
    """Samples that came with weight zero though they are no padding: those that can't be read."""
    left_out: list[int] = batch["sample_id"][(batch["weight"] == 0) & (batch["sample_id"] >= 0)].tolist()
    return left_out


class BadSamples:
    """Counts the different samples that were left out, up to what is allowed."""

    def __init__(self, sources: Sequence[PreparedSource], most: int, seen: Collection[int] = ()) -> None:
        self._sources, self._most = sources, most
        self.seen = set(seen)

    def check(self, left_out: Sequence[int]) -> None:
        """Count and log those that are new. Raises DataError once there are more than allowed."""
        for sample in left_out:
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
        self._skips = plan.job.data.skip_bad_samples > 0
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
                for batch in block:
                    if self._skips:
                        self._bad.check(_left_out(batch))
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
    blocks = TrainingBlocks(prepared, plan, rank=rank, world_size=world_size)
    layouts = prepared.train[0].layouts
    if plan.job.data.reader == "ray":
        from orchestrator.data.reading.ray_reader import read_with_ray

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
        ready=ready,
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
