"""What a launch tries again outside of its workers: told as theirs is, with pauses that grow."""

from __future__ import annotations

from orchestrator import events
from orchestrator.runs import EndReason

_LONGEST_PAUSE_SECONDS = 30.0


def is_tried_again(reason: EndReason, message: str, failure: int, most: int) -> bool:
    """Tell of a failure, and whether another try follows it.

    Args:
        reason: of the failure.
        message: the same, for a person.
        failure: how many there were with this one.
        most: as many are tried again.

    """
    retry = failure <= most
    events.emit(
        "incident",
        reason=reason,
        message=message,
        rank=None,
        failure=failure,
        max_failures=most,
        retry=retry,
    )
    return retry


def pause_seconds(failure: int, first: float) -> float:
    """Before the next try: ``first`` after the first failure, twice as long after each further one, up to half a minute."""
    return min(_LONGEST_PAUSE_SECONDS, first * 2.0 ** (failure - 1))
