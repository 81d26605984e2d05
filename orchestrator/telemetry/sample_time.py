"""How much of a run's time goes into samples, which are there to be looked at and make no model better."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SHARE = 0.01
"""Of the time since an attempt's start."""
FREE_SECONDS = 10.0
"""As much is spent whatever the share is, so that short runs show samples too."""


class SampleTime:
    """Keeps what samples have taken."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._begun, self._spent = clock, clock(), 0.0

    def is_left(self) -> bool:
        """Whether samples have taken no more than their share. What the next ones take is not known, so the share is
        passed once, and not again before it is made up for.
        """
        return self._spent <= max(FREE_SECONDS, SHARE * (self._clock() - self._begun))

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Around making samples."""
        begun = self._clock()
        try:
            yield
        finally:
            self._spent += self._clock() - begun
