"""What is tried again, for how long, on every answer of a cluster's API: one table for all backends.

=====================================  ======================================================================
answer                                 what is done
=====================================  ======================================================================
no connection, connection dropped,     tried again with growing pauses, writes too: every write of ours carries
no answer in time                      a fixed name, so that a second one is refused or harmless
429                                    tried again after ``Retry-After`` (at most a minute), else as above
500                                    reads: tried again; writes: not, except the one that a backend names
                                       (Ray: "No available agent", a head that has just started)
502, 503, 504                          tried again
403                                    never, except the one that a backend names (Kubernetes: a quota that was not
                                       counted yet, for six minutes, and the person is told)
409                                    never: on creation it means that it is there already
401                                    once more, where credentials that are read anew are others (Kubernetes)
404, 410, 413, 422, others             never: a second try can't help
401, 403 to who follows a run          for a minute, if it was answered before: an API server that has just started
                                       (Kubernetes) knows nobody's rights for some seconds
HTML or other text instead of JSON     never: the address is not the API's
=====================================  ======================================================================
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

_ALWAYS_AGAIN = frozenset({429, 502, 503, 504})
_LONGEST_RETRY_AFTER_SECONDS = 60.0


def worth_another_try(status: int, *, is_read: bool, is_starting: bool = False) -> bool:
    """Whether an HTTP status is tried again; status 0 stands for no answer at all. ``is_starting``: the backend
    recognized its own "not ready yet" in the answer.
    """
    if status == 500 and is_starting:
        return True
    return status == 0 or status in _ALWAYS_AGAIN or (status == 500 and is_read)


class Patience:
    """How often and how long one call is tried.

    Args:
        patience_seconds: After this long no further try is begun.
        first_pause_seconds: Pause after the first failure; each further one is twice as long, at most eight
            seconds, and shortened at random by up to a half so that many clients don't come back at once.
        sleep, clock: For tests.
    """

    def __init__(
        self,
        patience_seconds: float = 30.0,
        first_pause_seconds: float = 0.5,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patience_seconds = patience_seconds
        self.first_pause_seconds = first_pause_seconds
        self._sleep = sleep
        self._clock = clock

    def for_seconds(self, seconds: float) -> Patience:
        """The same, but giving up after so many seconds."""
        return Patience(seconds, self.first_pause_seconds, self._sleep, self._clock)

    def for_at_least(self, seconds: float) -> Patience:
        """The same, but not giving up before so many seconds."""
        return self.for_seconds(max(self.patience_seconds, seconds))

    def pause(self) -> None:
        """One pause, for a caller that begins anew for as long as it is wanted."""
        self._sleep(self.first_pause_seconds)

    def tries(self) -> Iterator[Try]:
        """One ``Try`` for each try; the last says so. Between two of them it pauses, as the try asked."""
        began = self._clock()
        pause = self.first_pause_seconds
        while True:
            elapsed = self._clock() - began
            attempt = Try(is_last=elapsed + pause > self.patience_seconds)
            yield attempt
            if attempt.is_last:
                return
            asked = min(attempt.retry_after_seconds, _LONGEST_RETRY_AFTER_SECONDS)
            self._sleep(asked or pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, 8.0)


class Try:
    """One try of a call."""

    def __init__(self, is_last: bool) -> None:
        self.is_last = is_last
        self.retry_after_seconds = 0.0
        """Set by the caller where the server said how long to wait."""


def retry_after_seconds(header: str | None) -> float:
    """Seconds of a ``Retry-After`` header; 0 where there is none, or one that is a date."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
