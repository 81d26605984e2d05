"""How many workers a job has."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag, model_validator

from orchestrator.section import Bytes, Seconds, Section
from orchestrator.spec.numbers import Positive, PositiveFloat


class WorkerRange(Section):
    """A number of workers that changes with what the cluster has room for. See docs/elastic.md."""

    min: Positive
    """Fewest: with room for fewer the run waits."""
    max: Positive
    """Most."""
    stabilization_window: Seconds = 60
    """How long there must have been room for more workers, and how long the group must have had its size, before the run saves
    and starts again with more. It goes on with fewer at once."""

    @model_validator(mode="after")
    def _in_order(self) -> WorkerRange:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


def _number_or_range(given: Any) -> str:
    return "range" if isinstance(given, dict | WorkerRange) else "number"


Workers = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[WorkerRange, Tag("range")], Discriminator(_number_or_range)
]


class ScalingSpec(Section):
    """How many workers, and what each gets."""

    workers: Workers = 1
    """Worker processes, one for each GPU or for each share of CPU: a number, or ``{min: 2, max: 8}`` for as many as there is room
    for."""
    cpus_per_worker: PositiveFloat = 1
    """CPU cores of a worker."""
    gpus_per_worker: Literal[0, 1] = 0
    """GPUs of a worker."""
    memory_per_worker: Bytes | None = None
    """Memory of a worker that the cluster sets aside. Default: nothing is set aside."""
    accelerator_type: str | None = None
    """GPU type as Ray names it, e.g. ``H100``. Default: any."""
    placement: Literal["pack", "spread"] = "pack"
    """Few nodes, or as many as there are."""
    node_labels: dict[str, str] = {}
    """Only nodes with these labels."""

    @property
    def range(self) -> WorkerRange | None:
        """Where the number of workers may change, in which bounds."""
        return self.workers if isinstance(self.workers, WorkerRange) else None

    @property
    def most_workers(self) -> int:
        """The number of workers, or the largest that it may be."""
        return self.workers.max if isinstance(self.workers, WorkerRange) else self.workers
