"""How long ago something was."""

from __future__ import annotations

import time


class Moment:
    """Now, as it is made. A clock that is set back meanwhile doesn't make it younger, nor does a machine that sleeps."""

    def __init__(self) -> None:
        self._wall, self._steady = time.time(), time.monotonic()

    def seconds_ago(self) -> float:
        """Seconds since then; too many where the clock was set forward."""
        return max(time.time() - self._wall, time.monotonic() - self._steady)
