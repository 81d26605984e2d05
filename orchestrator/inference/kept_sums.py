"""The sums of an evaluation under way, put down from time to time: one that is ended goes on from there."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from orchestrator.storage import store_at
from orchestrator.telemetry.evaluation_sums import EvaluationSums

_BATCHES_BETWEEN_LOOKS = 16
"""So often the ranks agree whether it is time to put the sums down, by one number over the host's network."""


class KeptSums(EvaluationSums):
    """Sums that begin with what an earlier attempt of the same evaluation has put down.

    A folder for each number of batches, in it a file of each rank. Where a rank was ended before it wrote its own, the folder
    before counts.
    """

    def __init__(
        self, device: torch.device, folder: str, *, seconds: float, is_leaving: Callable[[], bool]
    ) -> None:
        """Collective.

        Args:
            folder: of this evaluation alone: of one checkpoint, one data, one list of metrics and one number of workers.
            seconds: between two times.
            is_leaving: whether this rank may be gone at any moment: then each look puts them down.
        """
        super().__init__(device)
        self._store, self._seconds, self._is_leaving = store_at(folder), seconds, is_leaving
        self._rank, self._ranks = (
            (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        )
        self._put_down = [kept] if (kept := self._agreed(self._newest() if self._rank == 0 else 0)) else []
        self.batches = kept
        """How many batches of each rank are in the sums."""
        if kept:
            self.restore(load(self._store.read(f"{_name(kept)}/{self._rank}")))
        self._at = time.monotonic()

    def add(self, statistics: Mapping[str, tuple[Tensor, Tensor | None]]) -> None:
        """Collective. As ``EvaluationSums``; and put the sums down where it is time."""
        super().add(statistics)
        self.batches += 1
        if self.batches % _BATCHES_BETWEEN_LOOKS:
            return
        if self._agreed(self._is_leaving() or time.monotonic() - self._at >= self._seconds):
            self._store.write(f"{_name(self.batches)}/{self._rank}", save(self.state()))
            self._put_down.append(self.batches)
            # by now every rank has written the one before
            if self._rank == 0 and len(self._put_down) > 2:
                self._store.remove(_name(self._put_down.pop(0)))
            self._at = time.monotonic()

    def _newest(self) -> int:
        """The most batches that every rank has put down."""
        complete = [name for name in self._store.list("") if len(self._store.list(name)) == self._ranks]
        return int(max(complete, default="0"))

    def _agreed(self, number: int) -> int:
        """Collective: what rank 0 says."""
        told = torch.tensor(int(number))
        if self._ranks > 1:
            dist.broadcast(told, 0)
        return int(told)


def _name(batches: int) -> str:
    return f"{batches:010d}"
