"""Event lines: how a run tells the outside what it does, on any backend, through the driver's output.

One line is ``@trainwright {json}``. Whatever carries text carries it: a file, Ray's log forwarding (which puts
``(worker pid=...)`` before it), the Jobs API, ``kubectl logs``.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, Protocol

_MARK = "@trainwright "


class Output(Protocol):
    """What lines are written to."""

    def write(self, text: str, /) -> object:
        """Take text."""
        ...

    def flush(self) -> object:
        """Let readers see it."""
        ...


def emit(event: str, *, to: Output | None = None, **fields: Any) -> None:
    """Write one event, to standard output unless something else is given."""
    line = json.dumps({"event": event, "time": round(time.time(), 3), **fields}, separators=(",", ":"))
    output = sys.stdout if to is None else to
    output.write(f"{_MARK}{line}\n")
    output.flush()


def parse(line: str) -> dict[str, Any] | None:
    """The event of a line of output, or None where the line is something else."""
    start = line.find(_MARK)
    if start < 0:
        return None
    try:
        event = json.loads(line[start + len(_MARK) :])
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def is_part_of_one(line: str) -> bool:
    """Whether a line is an event, whole or cut off, as by a full disk or a kill."""
    return _MARK in line
