"""Strikes from outside of a run's processes, where a rank has come to the place of a fault and waits for it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from orchestrator.chaos.mlflow_door import Door
from orchestrator.chaos.places import Hit, Places

_LOOK_SECONDS = 0.02
_PULSE_SECONDS = 0.2


class Injector:
    """A thread that looks for ranks that wait, as long as a run lives."""

    def __init__(self, places: Places, notice: Path, door: Door | None) -> None:
        """
        Args:
            places: of the run.
            notice: the file whose appearance is a notice to all workers.
            door: before the MLflow server that the run is tracked by; None where no schedule has a fault of it.

        """
        self._door = door
        self._places, self._notice = places, notice
        self._over = threading.Event()
        self._struck: set[int] = set()
        self._passing: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._work, name="injector")
        self._acts: dict[str, Callable[[Hit], None]] = {
            "SIGKILL": lambda hit: _send(hit.pid, signal.SIGKILL),
            "SIGSTOP": lambda hit: _send(hit.pid, signal.SIGSTOP),
            "SIGTERM": lambda hit: _send(hit.pid, signal.SIGTERM),
            "file": lambda hit: self._notice.touch(),
            "pulses": self._pulse,
            "asleep": _by_the_rank_itself,
            "no file grows": _by_the_rank_itself,
            "503": self._break_mlflow,
            "gone": self._break_mlflow,
            "silent": self._break_mlflow,
            "fewer": self._take_room,
            "more": lambda hit: self._places.set_room(hit.fault.workers),
        }

    def __enter__(self) -> Injector:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.join()

    def join(self) -> None:
        """Wait until all faults have passed."""
        for thread in self._passing:
            thread.join()
        self._notice.unlink(missing_ok=True)

    def _work(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """Strike where a rank waits for it."""
        for hit in self._places.hits():
            if hit.fault.number not in self._struck:
                self._struck.add(hit.fault.number)
                self._acts[hit.fault.way](hit)
                self._places.strike(hit.fault.number)

    def _take_room(self, hit: Hit) -> None:
        """As a node goes: its worker is told, and there is room for fewer."""
        self._places.set_room(hit.fault.workers)
        _send(hit.pid, signal.SIGTERM)

    def _pulse(self, hit: Hit) -> None:
        """Stop and go on, again and again, from now on."""
        process = os.pidfd_open(hit.pid)  # it waits here, so the number is its own; later it may be another's
        signal.pidfd_send_signal(process, signal.SIGSTOP)

        def go_on() -> None:
            with contextlib.suppress(ProcessLookupError):
                for number in range(max(1, round(hit.fault.seconds / _PULSE_SECONDS))):
                    time.sleep(_PULSE_SECONDS)
                    signal.pidfd_send_signal(process, signal.SIGSTOP if number % 2 else signal.SIGCONT)
                signal.pidfd_send_signal(process, signal.SIGCONT)
            os.close(process)

        self._passing.append(threading.Thread(target=go_on, name="pulses"))
        self._passing[-1].start()

    def _break_mlflow(self, hit: Hit) -> None:
        """Until the fault is over."""
        door = self._door
        assert door is not None
        begin, end = {
            "503": (lambda: door.answer(503), lambda: door.answer(0)),
            "gone": (door.shut, door.open),
            "silent": (lambda: door.hold("/api/"), door.release),
        }[hit.fault.way]
        begin()

        def mend() -> None:
            time.sleep(hit.fault.seconds)
            end()

        self._passing.append(threading.Thread(target=mend, name="mlflow"))
        self._passing[-1].start()


def _by_the_rank_itself(hit: Hit) -> None:
    """It does it once it is told that it is time."""


def _send(pid: int, number: signal.Signals) -> None:
    """To a rank that waits, unless it was ended meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
