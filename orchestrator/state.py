"""Training state as engines give it and take it, and as checkpoints keep it: ranges of flattened tensors, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

AVERAGE = "ema"
"""Kind of a moving average, of a parameter or a buffer by the same name."""


@dataclass(frozen=True)
class StateRange:
    """A contiguous range of one flattened fp32 state tensor, as one rank holds it.

    ``kind`` is ``parameter`` (fp32 master), ``buffer``, ``ema`` (a moving average), or an optimizer's per-parameter state by torch's name
    (``exp_avg``, ``exp_avg_sq``, ``momentum_buffer`` ...). ``name`` is ``module/parameter.path``.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    start: int
    """First element of the range in the flattened whole tensor."""
    values: Tensor
    """The range's values, one-dimensional. May alias live memory."""
    until_update: bool = True
    """Whether ``values`` stay as they are until the next update. If not, copy them before the next range is asked for:
    buffers change in a forward pass, and what NVMe offload has read from a file goes back to it.
    """


class StateReader(Protocol):
    """What an engine loads from: any range of any saved tensor."""

    def tensors(self) -> Mapping[tuple[str, str], tuple[tuple[int, ...], torch.dtype]]:
        """(kind, name) -> shape and dtype of all that was saved."""
        ...

    def read(self, kind: str, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor, on the CPU. Raises CheckpointError where damaged."""
        ...
