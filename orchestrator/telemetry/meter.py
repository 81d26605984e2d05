"""Where the time went: each second of the loop belongs to one named part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Variable

PARTS = ("data_wait", "forward_backward", "optimizer", "checkpoint", "evaluate", "samples", "other")
"""What a step is made of. ``other`` is what no part claims: logging, the stop check, Python itself."""


class Clock(Protocol):
    """What a meter takes its times from."""

    def mark(self) -> Any:
        """Now."""
        ...

    def seconds(self, begin: Any, end: Any) -> float:
        """From one mark to a later one."""
        ...


class HostClock:
    """The processor's clock, for devices that have done what they were asked when a call returns."""

    def mark(self) -> float:
        """Now."""
        return time.perf_counter()

    def seconds(self, begin: float, end: float) -> float:
        """From one mark to a later one."""
        return end - begin


class DeviceClock:
    """Events in a GPU's stream: a part's time is the GPU's, however far ahead of it the host has run. While the GPU is
    busy with what came before, no time passes for the host's waits; where it has nothing to do, it does.
    """

    def mark(self) -> torch.cuda.Event:
        """When the GPU gets here."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> float:
        """From one mark to a later one; waits for the GPU to get there."""
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


def clock_of(device: torch.device) -> Clock:
    """The clock that tells a device's time."""
    return DeviceClock() if device.type == "cuda" else HostClock()


class Meter:
    """Adds up seconds by part since the last reading."""

    def __init__(self, clock: Clock, *, reduces_last: bool = False) -> None:
        """
        Args:
            clock: what times are taken from.
            reduces_last: the engine's, see ``Engine.reduces_last``.

        """
        self._clock = clock
        self._parts: list[tuple[str, Any, Any]] = []
        self._forwards: list[tuple[Any, Any]] = []
        self._reductions: list[tuple[Any, Any]] = []
        self._waits_last = reduces_last and dist.is_initialized() and dist.get_world_size() > 1
        self.forward_seconds = 0.0
        """Seconds of forward passes between the last two readings: of all that a step takes what waits for no other rank, but
        where parameters are gathered for it.
        """
        self.reduction_seconds: float | None = None
        """Seconds between the last two readings in which backward passes had computed all of their own, and were not over: then
        gradients of other ranks are waited for. What is reduced while others are still computed is not in it. None where that is
        not known.
        """
        self._last_reading = clock.mark()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge the time inside to ``name``. Parts don't nest."""
        begin = self._clock.mark()
        try:
            yield
        finally:
            self._parts.append((name, begin, self._clock.mark()))

    @contextmanager
    def forward(self) -> Iterator[None]:
        """Count the time inside as a forward pass, whichever part it belongs to."""
        begin = self._clock.mark()
        try:
            yield
        finally:
            self._forwards.append((begin, self._clock.mark()))

    @contextmanager
    def backward(self, loss: Tensor) -> Iterator[None]:
        """Find out when the backward pass inside, of this loss, has computed all of its own. Autograd calls back what was asked
        for in the pass once its graph is done, in the order of asking: this before the reducers of DDP and FSDP.
        """
        computed: list[Any] = []

        def ask(gradient: Tensor) -> None:
            Variable._execution_engine.queue_callback(lambda: computed.append(self._clock.mark()))

        if self._waits_last and loss.requires_grad:
            loss.register_hook(ask)
        yield
        if computed:
            self._reductions.append((computed[-1], self._clock.mark()))

    def read(self) -> dict[str, float]:
        """Seconds by part since the last reading; they add up to the wall time between the two. Waits for the device."""
        now = self._clock.mark()
        wall = self._clock.seconds(self._last_reading, now)
        recent = dict.fromkeys(PARTS, 0.0)
        for name, begin, end in self._parts:
            recent[name] += self._clock.seconds(begin, end)
        recent["other"] += max(0.0, wall - sum(recent.values()))
        self.forward_seconds = sum(self._clock.seconds(begin, end) for begin, end in self._forwards)
        if self._waits_last:
            self.reduction_seconds = sum(self._clock.seconds(begin, end) for begin, end in self._reductions)
        self._parts, self._forwards, self._reductions, self._last_reading = [], [], [], now
        return recent
