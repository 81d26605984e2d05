"""How a global batch is divided: global = workers × micro × accumulation."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.errors import SpecError


@dataclass(frozen=True)
class BatchSplit:
    """One worker's part of each step."""

    micro_batch_size: int
    """Samples of one forward."""
    accumulation_steps: int
    """Forwards."""


def split_batch(global_batch_size: int, workers: int, micro_batch_size: int | None) -> BatchSplit:
    """The split, exact.

    Args:
        micro_batch_size: samples of one forward; None: a worker's whole share.

    Raises:
        SpecError: workers do not divide the global batch, or the micro-batch a worker's share; with sizes that do.
    """
    share, rest = divmod(global_batch_size, workers)
    if rest:
        lower = max(1, share) * workers
        raise SpecError(
            f"training.global_batch_size {global_batch_size} can't be divided among scaling.workers"
            f" {workers}; {lower} or {lower + workers} can"
        )
    micro = micro_batch_size or share
    if share % micro:
        divisors = [size for size in range(1, share + 1) if share % size == 0]
        nearest = min(divisors, key=lambda size: abs(size - micro))
        raise SpecError(
            f"training.micro_batch_size {micro} does not divide a worker's share of {share}"
            f" ({global_batch_size} over {workers} workers); {nearest} does"
        )
    return BatchSplit(micro, share // micro)
