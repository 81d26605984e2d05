"""An engine that computes no gradient and updates nothing: it notes what it is asked, and refuses what makes no sense."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from orchestrator.state import StateRange, StateReader
from orchestrator.strategies.base import Update
from orchestrator.testing.calls import Calls


class RecordingEngine:
    """An ``Engine`` that notes its calls; one out of order raises AssertionError.

    A backward belongs into a micro-step of its own phase and comes once in each, outside of autocast; a step comes
    after a micro-step that was the phase's last, and never inside one.
    """

    reduces_last = False

    def __init__(
        self,
        modules: Mapping[str, nn.Module] | None = None,
        *,
        norms: Iterable[float] = (),
        diverges: bool = True,
        differs: str | None = None,
        calls: Calls | None = None,
    ) -> None:
        """
        Args:
            modules: what the objective is given. Default: none.
            norms: what the steps return, one after the other, and 1 from then on.
            diverges: whether a norm that is not finite can't be mended by a smaller loss scale.
            differs: what ``replicas_differ`` answers.
            calls: a list to note calls in, shared with other fakes.

        """
        self.modules: Mapping[str, nn.Module] = modules or {}
        self.device = torch.device("cpu")
        self.calls: Calls = [] if calls is None else calls
        self._norms, self._diverges, self._differs = iter(norms), diverges, differs
        self._inside: str | None = None
        """The phase whose micro-step is under way."""
        self._autocasts = self._went_backward = False
        self._complete: set[str] = set()
        """Phases whose last micro-step is done, and whose step has not come."""

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Noted at its begin and end."""
        assert not self._autocasts, "autocast inside autocast"
        self._autocasts = True
        self.calls.append(("autocast",))
        try:
            yield
        finally:
            self._autocasts = False
            self.calls.append(("autocast ends",))

    @contextmanager
    def micro_step(self, phase: str, *, last: bool) -> Iterator[None]:
        """Noted at its begin and end, where a backward must have come."""
        assert self._inside is None, f"micro_step of {phase} inside one of {self._inside}"
        assert phase not in self._complete, f"micro_step of {phase} after its last, before its step"
        self._inside, self._went_backward = phase, False
        self.calls.append(("micro_step", phase, last))
        try:
            yield
        finally:
            self._inside = None
            self.calls.append(("micro_step ends",))
        assert self._went_backward, f"micro_step of {phase} without backward"
        if last:
            self._complete.add(phase)

    def backward(self, phase: str, loss: Tensor) -> None:
        """Noted with the loss's value."""
        assert self._inside == phase, f"backward of {phase} in the micro_step of {self._inside}"
        assert not self._went_backward, f"second backward of {phase} in one micro_step"
        assert not self._autocasts, "backward inside autocast"
        self._went_backward = True
        self.calls.append(("backward", phase, loss.item()))

    def step(
        self,
        phase: str,
        learning_rate_factor: float,
        clip_norm: float | None,
        leave_out: Tensor | None = None,
    ) -> Update:
        """The next of ``norms``; where it is not finite, the step has diverged."""
        assert self._inside is None, f"step of {phase} inside a micro_step"
        assert phase in self._complete, f"step of {phase} before its last micro_step"
        self._complete.remove(phase)
        self.calls.append(("step", phase, learning_rate_factor, clip_norm))
        norm = torch.tensor(next(self._norms, 1.0), dtype=torch.float64)
        return Update(norm, ~norm.isfinite() & self._diverges)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Noted at its begin and end."""
        self.calls.append(("averaged",))
        yield
        self.calls.append(("averaged ends",))

    def state(self) -> Iterator[StateRange]:
        """Nothing is held."""
        self.calls.append(("state",))
        return iter(())

    def scalars(self) -> dict[str, float]:
        """None."""
        self.calls.append(("scalars",))
        return {}

    def load(self, reader: StateReader, scalars: Mapping[str, float]) -> None:
        """Noted only."""
        self.calls.append(("load",))

    def replicas_differ(self) -> str | None:
        """What ``differs`` said."""
        self.calls.append(("replicas_differ",))
        return self._differs

    def close(self) -> None:
        """Noted only."""
        self.calls.append(("close",))
