"""Engine: the few verbs that the loop knows, the same for DDP, FSDP2 and ZeRO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from orchestrator.state import StateRange, StateReader


@dataclass(frozen=True)
class Update:
    """What became of a phase's step. On the device, so that nobody waits for it; the same on every rank."""

    norm: Tensor
    """() float64: the global gradient norm before clipping."""
    diverged: Tensor
    """() bool: the gradient is not finite, and no smaller loss scale would mend that."""


class Engine(Protocol):
    """The distributed modules and optimizers of one job on this rank."""

    modules: Mapping[str, nn.Module]
    """What the objective calls."""
    device: torch.device
    reduces_last: bool
    """Whether what a backward pass still waits for, once it has computed all of its own, is what others have not sent yet: their
    gradients. Where gradients are reduced in between, nothing tells how long they are waited for.
    """

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

    def step(
        self,
        phase: str,
        learning_rate_factor: float,
        clip_norm: float | None,
        leave_out: Tensor | None = None,
    ) -> Update:
        """Clip by global norm, update, zero the gradients.

        Where the gradient is not finite nothing is updated, and once a step has diverged none after it updates
        anything: the state stays that of the last good step until somebody has looked.

        ``learning_rate_factor`` multiplies the phase's peak learning rate (the schedule is the loop's). Where ``leave_out``,
        () bool on the device, is true nothing is updated either; strategies that can't have it so refuse the job.
        """
        ...

    def averaged(self) -> AbstractContextManager[None]:
        """Collective. Inside, the modules have the moving averages of their weights, to be evaluated (``training.ema``).

        No save may be copying the state aside.
        """
        ...

    def state(self) -> Iterator[StateRange]:
        """The ranges that this rank holds. Over all ranks they cover every tensor exactly once."""
        ...

    def scalars(self) -> dict[str, float]:
        """Engine state that is not a tensor by parameter (optimizer step counts by ``phase``, the loss scale).

        Waits for the device.
        """
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
