"""What a launch tries again outside of its workers: told as theirs is, with pauses that grow."""

from __future__ import annotations

from orchestrator import events
from orchestrator.runs import EndReason

HOLD_SECONDS = 90.0
"""Nothing is started for so long on a head that has notice: what it did would be lost. A head that is still there then was not
taken away."""
_LONGEST_PAUSE_SECONDS = 30.0


def is_tried_again(
    reason: EndReason, message: str, failure: int, most: int, *, is_counted: bool = True
) -> bool:
    """Tell of a failure, and whether another try follows it.

    Args:
        reason: of the failure.
        message: the same, for a person.
        failure: how many have been counted, with this one where it is.
        most: as many are tried again.
        is_counted: whether this one is; else it is always tried again.

    """
    retry = not is_counted or failure <= most
    events.emit(
        "incident",
        reason=reason,
        message=message,
        rank=None,
        failure=failure,
        max_failures=most,
        retry=retry,
        is_counted=is_counted,
    )
    return retry


def pause_seconds(failure: int, first: float) -> float:
    """Before the next try: ``first`` after the first failure, twice as long after each further one, up to half a minute."""
    return min(_LONGEST_PAUSE_SECONDS, first * 2.0 ** (failure - 1))
