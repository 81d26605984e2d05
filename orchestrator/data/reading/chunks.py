"""Chunks: consecutive steps of one rank, as arrays of shape (steps, samples of the rank, ...).

``fetch`` of ``TrainingChunks`` and ``EvaluationChunks``, and what it returns, are all that reading is; the transports
(``worker_reader``, ``ray_reader``) only decide which process and thread calls them, and when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from orchestrator.data.reading.rows import refuse_text
from orchestrator.data.transforms import Batch

CHUNK_BYTES = 2**23
"""A chunk holds about as much, and at least one step. Of twice the size, a chunk of images took a fifth more CPU: memory
so large is asked of the system anew for each."""


class Chunks(Protocol):
    """What can be read chunk by chunk."""

    stop: int
    samples: int
    most_steps: int

    def fetch(self, first_step: int, stop_step: int) -> Callable[[], Batch]:
        """Read what a chunk needs. What is returned makes the chunk of it, on any thread."""
        ...


def most_steps(samples: int, sample_bytes: int) -> int:
    """Steps of a chunk, of which each has so many samples of so many bytes."""
    return max(1, CHUNK_BYTES // max(1, samples * sample_bytes))


def share_of(total: int, rank: int, world_size: int) -> tuple[int, int]:
    """First and one past the last of ``total`` things that a rank has."""
    return rank * total // world_size, (rank + 1) * total // world_size


def chunk_bounds(first: int, stop: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut steps into chunks: short ones first, so that the first batch comes soon."""
    size = 1
    while first < stop:
        end = min(stop, first + min(size, most))
        yield first, end
        first, size = end, size * 2


def by_step(rows: Batch, steps: int) -> Batch:
    """Rows of some steps as arrays (steps, samples, ...). Raises DataError where text is left."""
    refuse_text(rows)
    return {name: values.reshape(steps, -1, *values.shape[1:]) for name, values in rows.items()}
