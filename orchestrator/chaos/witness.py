"""In each worker: notes which samples every step took, and stands still where a fault is due until it is there."""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.chaos.places import Hit, Places
from orchestrator.chaos.schedule import FIRST_STEP, Fault, Phase
from orchestrator.loop import Step, Surroundings
from orchestrator.models.base import Batch
from orchestrator.recovery.notice import NoticeBoard
from orchestrator.worker import Seat

_LOOK_SECONDS = 0.005


def watch(steps: Iterator[Step], around: Surroundings, seat: Seat) -> tuple[Iterator[Step], Surroundings]:
    """The loop's steps and surroundings with a witness between; see ``worker.Watch``."""
    witness = Witness(seat)
    return witness.steps(steps), _Watched(around, witness)


class Witness:
    """Of one rank in one attempt."""

    def __init__(self, seat: Seat) -> None:
        self._seat, self._places = seat, Places(seat.storage)
        self._faults = self._places.faults()
        self._step = seat.start_step
        self._record = _Record(self._places.taken(seat.attempt, seat.rank))

    def steps(self, steps: Iterator[Step]) -> Iterator[Step]:
        """The same steps, each written down before it is taken."""
        for step in steps:
            self._step += 1
            ids = [number for micro in step.micros for number in micro["sample_id"].tolist()]
            self._record.add([self._step, [number for number in ids if number >= 0]])
            self.comes_to("batch")
            yield step

    def comes_to(self, phase: Phase) -> None:
        """The rank has come to a place in its step: what is due there happens now."""
        if self._step < self._seat.start_step + FIRST_STEP:
            return  # what is a hang is told by the attempt's steps before it
        for fault in self._faults:
            if fault.phase == phase and fault.step <= self._step and self._is_due(fault):
                self._meet(fault)
                return

    def _is_due(self, fault: Fault) -> bool:
        """Whether it is this rank's, has not been met, and the one before it, where that ends an attempt, has ended one."""
        seat, hits = self._seat, {hit.fault.number: hit for hit in self._places.hits()}
        before = hits.get(fault.number - 1)
        return (
            fault.rank % seat.world_size == seat.rank
            and fault.number not in hits
            and (fault is self._faults[0] or before is not None)
            and (before is None or not before.fault.ends_attempt or before.attempt < seat.attempt)
        )

    def _meet(self, fault: Fault) -> None:
        seat = self._seat
        self._places.hit(
            Hit(
                fault=fault,
                time=time.time(),
                attempt=seat.attempt,
                rank=seat.rank,
                step=self._step,
                pid=os.getpid(),
            )
        )
        self._places.wait_until_struck(fault.number)
        if fault.way == "asleep":
            sleep_for_ever()
        if fault.kind == "disk":
            refuse_writes(fault.seconds)
        if fault.way == "more":
            wait_until_asked_to_leave()


def sleep_for_ever() -> None:
    """Neither ends nor answers the other ranks; other threads of the process go on."""
    threading.Event().wait()


def wait_until_asked_to_leave() -> None:
    """Stand still until the group is to start again with more workers, so that a short run does not end before. One that never is
    will be found as a rank that hangs.
    """
    board = NoticeBoard("")
    while not board.asked_to_leave:
        time.sleep(_LOOK_SECONDS)


def refuse_writes(seconds: float) -> None:
    """Let the kernel refuse this process to write any file for so long, by its limit on their size; sockets go on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    timer = threading.Timer(seconds, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard)))
    timer.daemon = True
    timer.start()


class _Record:
    """Lines of a file. What the disk refuses is written when it no longer does."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._waiting = b""

    def add(self, line: Any) -> None:
        """In the file whatever happens next, if the disk takes it."""
        self._waiting += json.dumps(line, separators=(",", ":")).encode() + b"\n"
        try:
            self._waiting = self._waiting[os.write(self._file, self._waiting) :]
        except OSError:
            return


class _Watched:
    """Surroundings that tell the witness how far the loop has come in its step."""

    def __init__(self, around: Surroundings, witness: Witness) -> None:
        self._around, self._witness = around, witness

    def before_update(self) -> None:
        """See Surroundings."""
        self._witness.comes_to("update")
        self._around.before_update()

    def log(self, step: int, values: dict[str, float], seconds: dict[str, float]) -> None:
        """See Surroundings."""
        self._around.log(step, values, seconds)
        if seconds:
            self._witness.comes_to("log")

    def save(self, step: int, metrics: dict[str, float]) -> None:
        """See Surroundings. What was begun is still being written."""
        self._around.save(step, metrics)
        self._witness.comes_to("save")

    def evaluation(self) -> Iterator[Batch]:
        """See Surroundings."""
        for batch in self._around.evaluation():
            self._witness.comes_to("evaluate")
            yield batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._around, name)
