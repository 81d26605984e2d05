"""Gradients into DeepSpeed's buckets in one order on all ranks.

DeepSpeed's stages 1 and 2 fill a bucket as gradients arrive and then reduce it over the ranks, element by element.
Where the ranks' backwards run in different orders (a packed sequence whose lengths happen to be equal has another
graph), elements of different parameters would be added, without an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


class GradientOrder:
    """Holds back a gradient until those before it have come: the last parameters first, as a backward goes."""

    def __init__(self, optimizer: Any, parameters: Iterable[nn.Parameter]) -> None:
        self._expected = [id(parameter) for parameter in parameters][::-1]
        self._next = 0
        self._waiting: dict[int, tuple[nn.Parameter, int]] = {}
        self._process = optimizer.process_gradients
        self._finish = optimizer.overlapping_partition_gradients_reduce_epilogue
        optimizer.process_gradients = self._arrived
        optimizer.overlapping_partition_gradients_reduce_epilogue = self._all_arrived

    def _arrived(self, parameter: nn.Parameter, group: int) -> None:
        self._waiting[id(parameter)] = (parameter, group)
        while self._next < len(self._expected) and self._expected[self._next] in self._waiting:
            self._process(*self._waiting.pop(self._expected[self._next]))
            self._next += 1

    def _all_arrived(self) -> None:
        """The rest, where parameters without a gradient stood in the way."""
        for key in self._expected[self._next :]:
            if key in self._waiting:
                self._process(*self._waiting.pop(key))
        self._next = 0
        self._finish()
