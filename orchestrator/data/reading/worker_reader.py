"""Chunks read in this process, by the worker itself: the transport that is none."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from orchestrator.data.columns.layout import TensorLayout, finished_steps
from orchestrator.data.reading.chunks import Chunks, chunk_bounds
from orchestrator.data.transforms import Batch
from orchestrator.planning.plan import Plan


def decoding_threads(plan: Plan) -> int:
    """Threads of a worker that decode and transform; none where nothing is to be made ready ahead."""
    return plan.job.data.reader_tasks if plan.job.data.prefetch_batches else 0


def chunks_ahead(plan: Plan, steps_per_chunk: int) -> int:
    """Chunks that hold the batches to be made ready, and one while the next is being made."""
    batches = plan.job.data.prefetch_batches
    return -(-batches // steps_per_chunk) + 1 if batches else 0


def read_here(
    chunks: Chunks, first_step: int, layouts: Sequence[TensorLayout], *, threads: int
) -> Generator[list[Batch], None, None]:
    """Read in this process, in order, the steps of each chunk as the loop gets them.

    Args:
        threads: so many chunks are decoded at once, while this thread reads for the next; 0: this thread does it all.
    """

    def steps_of(decode: Callable[[], Batch]) -> list[Batch]:
        return finished_steps(decode(), layouts)

    bounds = chunk_bounds(first_step, chunks.stop, chunks.most_steps)
    if threads == 0:
        for first, stop in bounds:
            yield steps_of(chunks.fetch(first, stop))
        return
    pool, pending = (
        ThreadPoolExecutor(threads, thread_name_prefix="data-decode"),
        deque[Future[list[Batch]]](),
    )
    most = 0  # the first chunk is not to wait for what the second needs
    try:
        for first, stop in bounds:
            pending.append(pool.submit(steps_of, chunks.fetch(first, stop)))
            while len(pending) > most or (pending and pending[0].done()):
                yield pending.popleft().result()
                most = threads
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
