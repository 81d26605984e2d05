"""Where the time went: each second of the loop belongs to one named part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

PARTS = ("data_wait", "forward_backward", "optimizer", "checkpoint", "evaluate", "other")
"""What a step is made of. ``other`` is what no part claims: logging, the stop check, Python itself."""


class Meter:
    """Adds up wall seconds by part since the last reading."""

    def __init__(self) -> None:
        self._recent = dict.fromkeys(PARTS, 0.0)
        self._last_reading = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge the time inside to ``name``. Parts don't nest."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._recent[name] += time.perf_counter() - start

    def read(self) -> dict[str, float]:
        """Seconds by part since the last reading; they add up to the wall time between the two."""
        now = time.perf_counter()
        recent = self._recent
        recent["other"] += max(0.0, now - self._last_reading - sum(recent.values()))
        self._recent = dict.fromkeys(PARTS, 0.0)
        self._last_reading = now
        return recent
