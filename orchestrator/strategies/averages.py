"""Moving averages of trained weights, beside them: laid out as the strategy lays out what they follow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.models.averages import share_of_step
from orchestrator.spec.training import EmaSpec
from orchestrator.strategies.optimizers import local


@dataclass(frozen=True, eq=False)
class Average:
    """Of one tensor."""

    phase: str
    """That trains it."""
    name: str
    source: Callable[[], Tensor]
    """The tensor as it is; a buffer may be another one after each forward."""
    values: Tensor
    """Laid out as the tensor, in fp32 at least."""
    is_buffer: bool


class Averages:
    """All averages of one rank; none where the job asks for none."""

    def __init__(self, ema: EmaSpec | None) -> None:
        self._ema = ema
        self.all: list[Average] = []

    def follow(self, phase: str, name: str, source: Callable[[], Tensor], *, is_buffer: bool = False) -> None:
        """Begin an average at what its source is now. Whole numbers, as a count of batches, have none."""
        now = source()
        if self._ema is not None and now.is_floating_point():
            values = torch.zeros_like(now, dtype=torch.promote_types(now.dtype, torch.float32))
            values.requires_grad_(False)
            local(values).copy_(local(now.detach()))
            self.all.append(Average(phase, name, source, values, is_buffer))

    @torch.no_grad()
    def move(self, phase: str, updates: Tensor, skip: Tensor) -> None:
        """Follow a phase's update without waiting for the device.

        Args:
            updates: () those that the phase's optimizer had made before it.
            skip: () bool: it changed nothing.
        """
        if self._ema is None:
            return
        share = torch.where(skip, 0.0, share_of_step(updates.float(), self._ema.decay))
        for average in self.all:
            if average.phase == phase:
                mean, new = local(average.values), local(average.source().detach())
                towards = mean.lerp_ if not average.is_buffer else mean.lerp
                moved = towards(new.to(mean.dtype), share.to(mean.device, mean.dtype))
                if average.is_buffer:  # which may hold an infinity that never moves
                    mean.copy_(torch.where(mean == new, mean, moved))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, each tensor has its average's values; of parameters no second copy is made for it."""
        with torch.no_grad():
            kept = {id(one): one.source().clone() for one in self.all if one.is_buffer}
            self._exchange()
        try:
            yield
        finally:
            with torch.no_grad():
                self._exchange(kept)

    def _exchange(self, buffers: dict[int, Tensor] | None = None) -> None:
        """Averages and weights change places. Buffers, which may be rounded, take averages or those that are given."""
        for average in self.all:
            if average.is_buffer:
                average.source().copy_(average.values if buffers is None else buffers[id(average)])
                continue
            weights, mean = local(average.source().detach()), local(average.values)
            before = weights.clone()
            weights.copy_(mean)
            mean.copy_(before)
