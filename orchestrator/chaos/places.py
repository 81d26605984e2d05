"""Where the files of a schedule lie in a run's storage, and how its parts tell each other that it is time.

::

    <storage>/chaos/schedule.json               the faults that the run is to have
    <storage>/chaos/taken/attempt-1-rank-0.jsonl  the samples of each step that a rank took
    <storage>/chaos/hit-7.json                  the rank has come to where fault 7 is due, and waits
    <storage>/chaos/struck-7.json               the fault is there; the rank goes on, if it can
    <storage>/chaos/room.json                   for how many workers this machine is to have room, where that changes
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from pydantic import TypeAdapter

from orchestrator.chaos.schedule import Fault
from orchestrator.section import Section

_FAULTS = TypeAdapter(list[Fault])
_LOOK_SECONDS = 0.005


class Hit(Section):
    """Where a fault was due."""

    fault: Fault
    """It."""
    time: float
    """When, in seconds since the epoch."""
    attempt: int
    """In which attempt."""
    rank: int
    """On which worker."""
    step: int
    """In which step."""
    pid: int
    """The worker's process."""


class Places:
    """The files of one run."""

    def __init__(self, storage: str) -> None:
        self._folder = Path(storage, "chaos")

    def schedule(self, faults: list[Fault]) -> None:
        """Write which faults the run is to have."""
        self._folder.mkdir(parents=True)
        (self._folder / "taken").mkdir()
        self._write("schedule.json", _FAULTS.dump_json(faults))

    def faults(self) -> list[Fault]:
        """Those faults."""
        return _FAULTS.validate_json((self._folder / "schedule.json").read_bytes())

    def taken(self, attempt: int, rank: int) -> Path:
        """The file of what a rank took."""
        return self._folder / "taken" / f"attempt-{attempt}-rank-{rank}.jsonl"

    def all_taken(self) -> dict[tuple[int, int], Path]:
        """Those files by attempt and rank."""
        found = {}
        for path in (self._folder / "taken").iterdir():
            _, attempt, _, rank = path.stem.split("-")
            found[int(attempt), int(rank)] = path
        return dict(sorted(found.items()))

    def hit(self, hit: Hit) -> None:
        """Write down that a fault is due, once."""
        self._write(f"hit-{hit.fault.number}.json", hit.model_dump_json().encode())

    def hits(self) -> list[Hit]:
        """All that were due, in their order."""
        found = [Hit.model_validate_json(path.read_bytes()) for path in self._folder.glob("hit-*.json")]
        return sorted(found, key=lambda hit: hit.time)

    def strike(self, number: int) -> None:
        """Write down that a fault is there."""
        self._write(f"struck-{number}.json", json.dumps(time.time()).encode())

    def wait_until_struck(self, number: int) -> None:
        """Stand still until it is."""
        while not (self._folder / f"struck-{number}.json").exists():
            time.sleep(_LOOK_SECONDS)

    def set_room(self, workers: int) -> None:
        """Have room for so many workers from now on."""
        self._write("room.json", json.dumps(workers).encode())

    def room(self) -> int | None:
        """For how many there is room; None where that does not change."""
        try:
            return int((self._folder / "room.json").read_bytes())
        except FileNotFoundError:
            return None

    def _write(self, name: str, content: bytes) -> None:
        draft = self._folder / f".{name}.{os.getpid()}"
        draft.write_bytes(content)
        draft.rename(self._folder / name)
