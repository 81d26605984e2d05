"""Keeps a launch's driver: one that is killed, for want of memory say, is started again within the same submission. One that is
lost with a pod that will be taken away failed at nothing.

Ray ends a job's processes together, so a stop reaches keeper and driver both, and is the driver's to follow; a driver ends with
its keeper. A driver that could say how its launch ends is never started again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Sequence

from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord
from orchestrator.retries import HOLD_SECONDS, is_tried_again, pause_seconds
from orchestrator.runs import EndReason

_LOOK_SECONDS = 0.5
_TOLD_TO_END = 128 + signal.SIGTERM


def keep(
    plan: Plan,
    launch: int,
    command: Sequence[str],
    pod: str | None = None,
    first_pause: float = 1.0,
    hold_seconds: float = HOLD_SECONDS,
) -> int:
    """Run a launch's driver to the launch's end; returns its exit code.

    Args:
        plan: of the run; ``recovery.max_failures`` says how often a driver that was killed is started again.
        launch: the launch.
        command: starts a driver that calls ``end_with_keeper``.
        pod: name of the one that this is in, where it is in one.
        first_pause: seconds before the first start again; before each further one twice as long.
        hold_seconds: before the start after one that was lost with its pod: the pod should end meanwhile.

    """
    told: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: told.append(number))
    record, most = RunRecord(plan.storage), plan.job.recovery.max_failures
    failure, is_excused = 0, False
    while True:
        known = _drivers(record, launch)
        code = _driven(command)
        if told or not _was_lost(record, launch, known):
            return code
        leaves = not is_excused and _pod_leaves(record, launch, pod)
        is_excused |= leaves  # where the pod stays after all, what fails later counts
        failure += not leaves
        message = f"the driver was lost ({_how(code)}{', as its pod will be taken away' if leaves else ''})"
        if not is_tried_again(EndReason.DRIVER_LOST, message, failure, most, is_counted=not leaves):
            return code
        if _is_told_within(hold_seconds if leaves else pause_seconds(failure, first_pause), told):
            return _TOLD_TO_END


def end_with_keeper() -> None:
    """In a driver's process: from now on it ends when its keeper has, however that ended."""
    threading.Thread(target=_end_with_input, name="keeper", daemon=True).start()


def _end_with_input() -> None:
    while os.read(0, 4096):  # not by sys.stdin, whose lock a thread would hold when the process ends
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def _is_told_within(seconds: float, told: Collection[int]) -> bool:
    end = time.monotonic() + seconds
    while not told and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK_SECONDS))
    return bool(told)


def _driven(command: Sequence[str]) -> int:
    """Its exit code, as a shell gives it."""
    with subprocess.Popen(command, stdin=subprocess.PIPE) as driver:
        code = driver.wait()
    return code if code >= 0 else 128 - code


def _drivers(record: RunRecord, launch: int) -> int:
    with contextlib.suppress(OSError):
        return record.newest_driver(launch)
    return 0


def _was_lost(record: RunRecord, launch: int, known: int) -> bool:
    """Whether a driver has begun, and could not write its launch's end. Of storage that fails nothing is known."""
    with contextlib.suppress(OSError):
        status = record.status(launch)
        return (
            record.newest_driver(launch) > known
            and not record.stop_was_asked(launch)
            and (status is None or not status.state.is_final)
        )
    return False


def _pod_leaves(record: RunRecord, launch: int, pod: str | None) -> bool:
    with contextlib.suppress(OSError):
        return pod is not None and record.head_leaves(launch, pod)
    return False


def _how(code: int) -> str:
    return signal.Signals(code - 128).name if code > 128 else f"exit code {code}"
