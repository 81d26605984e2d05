"""Engine: the few verbs that the loop knows, the same for DDP, FSDP2 and ZeRO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class StateRange:
    """A contiguous range of one flattened fp32 state tensor, as one rank holds it.

    ``kind`` is ``parameter`` (fp32 master), ``buffer``, or an optimizer's per-parameter state by torch's name
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


class Engine(Protocol):
    """The distributed modules and optimizers of one job on this rank."""

    modules: Mapping[str, nn.Module]
    """What the objective calls."""
    device: torch.device

    def autocast(self) -> AbstractContextManager[None]:
        """Around forward and loss: the precision of the job."""
        ...

    def micro_step(self, phase: str, *, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one micro-batch: gradients are exchanged only in the last one.

        Only the phase's own module takes part: the others' parameters gather no gradient.
        """
        ...

    def backward(self, phase: str, loss: Tensor) -> None:
        """Accumulate gradients of ``loss``: this rank's *share of the global mean*, so that gradients *add up*
        over micro-batches and ranks (an engine that averages over ranks multiplies by the world size).
        """
        ...

    def step(self, phase: str, learning_rate_factor: float, clip_norm: float | None) -> float:
        """Clip by global norm, update, zero the gradients; returns the global norm before clipping.

        ``learning_rate_factor`` multiplies the phase's peak learning rate (the schedule is the loop's).
        """
        ...

    def state(self) -> Iterator[StateRange]:
        """The ranges that this rank holds. Over all ranks they cover every tensor exactly once."""
        ...

    def scalars(self) -> dict[str, float]:
        """Engine state that is not a tensor by parameter (optimizer step counts by ``phase``, the loss scale)."""
        ...

    def load(self, reader: StateReader, scalars: Mapping[str, float]) -> None:
        """Put saved state in place, whatever strategy and world size wrote it. Bit for bit in fp32."""
        ...

    def replicas_differ(self) -> str | None:
        """Collective. The first replicated tensor that is not equal on all ranks, or None."""
        ...

    def close(self) -> None:
        """Free what the engine started."""
        ...
