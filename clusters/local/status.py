"""A driver's process and its output -> how the run stands."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from orchestrator import events
from orchestrator.planning.plan import Plan
from orchestrator.runs import EndReason, RunState, RunStatus

_PROGRESS_BYTES = 512_000
"""Of the output, what is looked at for progress."""
_LAST_WORDS_BYTES = 16_000
_ROOM_BYTES = 100_000
"""With less than this no end can be counted on to be written."""


def pending(plan: Plan, launch: int, submitted_at: float) -> RunStatus:
    """A launch whose driver is not there yet."""
    return RunStatus(
        run_id=plan.run_id,
        state=RunState.PENDING,
        name=plan.job.name,
        launch=launch,
        submitted_at=submitted_at,
        total_steps=plan.total_steps,
    )


def never_started(status: RunStatus) -> RunStatus:
    """The end of a launch whose command was ended before it had started a driver."""
    message = (
        "the command that launched it was ended before its driver began;"
        f" trainwright resume {status.run_id} launches it again"
    )
    return status.ended(RunState.FAILED, EndReason.DRIVER_LOST, message, ended_at=time.time())


def half_deleted(status: RunStatus) -> RunStatus:
    """The end of a run of which a killed deletion has left something."""
    message = f"it is being deleted; trainwright delete {status.run_id} --yes ends that"
    if status.state.is_final:
        return status.saying(message)
    return status.ended(RunState.STOPPED, EndReason.STOPPED_BY_USER, message, ended_at=time.time())


def lost(status: RunStatus, log: Path, *, stop_was_asked: bool) -> RunStatus:
    """The end of a launch whose driver is gone without having written one: what it said last, where it could say it."""
    if stop_was_asked:
        message = "stopped at once; the newest checkpoint is what it can go on from"
        return status.ended(RunState.STOPPED, EndReason.STOPPED_BY_USER, message, ended_at=time.time())
    lines = _tail(log, _LAST_WORDS_BYTES)[::-1]
    told = next((event for line in lines if (event := events.parse(line)) and event["event"] == "end"), None)
    if told is not None:  # it had an end that the storage did not take
        return status.ended(
            RunState(told["state"]), EndReason(told["reason"]), told["message"], ended_at=told["time"]
        )
    last = next((line for line in lines if not events.is_part_of_one(line)), "")
    said = f"; its last words: {last[:200]}" if last else ""
    if shutil.disk_usage(log.parent).free < _ROOM_BYTES:
        said += f"; the disk of {log.parent} is full"
    message = (
        f"the driver process ended without a word (killed, or the machine went down){said};"
        f" trainwright resume {status.run_id} goes on from the newest checkpoint"
    )
    return status.ended(RunState.FAILED, EndReason.DRIVER_LOST, message, ended_at=time.time())


def newest_lines(log: Path) -> list[str]:
    """The end of a driver's output, where its newest events are."""
    return _tail(log, _PROGRESS_BYTES)


def has_workers(log: Path) -> bool:
    """Whether workers were started: from then on a stop is theirs to notice."""
    found = (events.parse(line) for line in newest_lines(log))
    return any(event["event"] == "attempt" for event in found if event)


def _tail(log: Path, size: int) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - size))
            content = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.strip() for line in content.splitlines() if line.strip()]
