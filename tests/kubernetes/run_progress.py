"""What a run does at this moment, from what its first rank wrote on the claim: nearer than any client of the cluster is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from control_plane import wait_until

from orchestrator import events
from orchestrator.clusters.shared.log_lines import GrowingFile

EVERY = 10
"""Steps between two evaluations; saves come half way, too."""
_LOOK_SECONDS = 0.02

Event = dict[str, Any]


class Progress:
    """One run's, kept up to date by looking.

    Args:
        folder: The run's, on the claim.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, GrowingFile] = {}
        self._told: list[Event] = []

    def told(self) -> list[Event]:
        """All events of rank 0, the attempts one after the other."""
        for path in sorted(self._folder.glob("logs/attempt-*/rank-0.log"), key=_attempt_of):
            file = self._files.setdefault(path, GrowingFile(path))
            found = (events.parse(line) for line in file.new_lines())
            self._told += [{**event, "attempt": _attempt_of(path)} for event in found if event]
        return self._told

    def steps(self) -> list[Event]:
        """Steps that were taken."""
        return [
            event for event in self.told() if event["event"] == "metrics" and "train/loss" in event["values"]
        ]

    @property
    def attempt(self) -> int:
        """The newest one that has taken a step; 0 before the first."""
        return max((event["attempt"] for event in self.steps()), default=0)

    def start_of(self, attempt: int) -> int:
        """The step from which it went on."""
        return next(
            event["start_step"]
            for event in self.told()
            if (event["event"], event["attempt"]) == ("attempt", attempt)
        )

    def last_before(self, step: Event) -> Event:
        """The step that was taken last before one of those that were told."""
        return max(
            (event for event in self.steps() if event["time"] < step["time"]), key=lambda event: event["time"]
        )

    def first_step_after(self, at: float, seconds: float = 400, *, later_than: int = 0) -> Event:
        """The first step that ended after a moment, in an attempt after one."""

        def found() -> Event | None:
            steps = (event for event in self.steps() if event["attempt"] > later_than)
            return next((event for event in steps if event["time"] > at), None)

        return dict(wait_until("a next step", found, seconds=seconds))

    def unfinished_save(self) -> Path | None:
        """A checkpoint that is being written by the newest attempt."""
        for folder in self._folder.glob(f"checkpoints/step-*.attempt-{self.attempt}"):
            if not (folder / "COMMITTED").exists():
                return folder
        return None

    def wait_for(self, phase: str) -> str:
        """Until the run is in a phase, as it begins; returns what was seen."""
        known = len(self.steps())

        def is_there() -> str:
            if phase == "saving":
                return str(self.unfinished_save() or "")
            for event in self.steps()[known:]:
                if event["step"] % EVERY == {"training": 3, "evaluating": 0}[phase]:
                    return f"step {event['step']}"
            return ""

        seen = wait_until(f"the run is {phase}", is_there, seconds=300, every=_LOOK_SECONDS)
        if phase == "evaluating":
            time.sleep(0.5)  # it has begun then
        return str(seen)


def _attempt_of(path: Path) -> int:
    return int(path.parent.name.rpartition("-")[2])
