"""Lines out of what grows: a file, pieces of text, a rank's logs in the run's records."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from orchestrator.errors import NotFoundError
from orchestrator.records import LONGEST_READ_BYTES, RunRecord

_POLL_SECONDS = 1.0


def rank_lines(
    record: RunRecord,
    rank: int,
    *,
    follow: bool,
    has_ended: Callable[[], bool],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[str]:
    """Lines of one rank, oldest attempt first; with ``follow`` until ``has_ended`` says so.

    ``has_ended`` is asked before each look, so what was written before the end is not missed.
    """
    offsets: dict[str, int] = {}
    rests: dict[str, bytes] = {}
    while True:
        is_last_look = not follow or has_ended()
        for path in record.rank_logs(rank):
            is_full = True
            while is_full:
                content = record.read_log(path, offsets.get(path, 0))
                # what is written while we read is for the next look: a busy log has no end
                is_full = len(content) == LONGEST_READ_BYTES
                offsets[path] = offsets.get(path, 0) + len(content)
                *lines, rests[path] = (rests.get(path, b"") + content).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace").rstrip("\r")
            rest = rests.get(path, b"")
            if is_last_look and rest:
                yield rest.decode(errors="replace")
        if is_last_look:
            return
        sleep(_POLL_SECONDS)


class GrowingFile:
    """A file of lines that another process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""

    def new_lines(self) -> list[str]:
        """Lines that became complete since the last look. A file that became shorter is read from its start."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._offset:
                    self._offset, self._rest = 0, b""
                file.seek(self._offset)
                content = file.read()
        except OSError:
            return []
        self._offset += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        return [line.decode(errors="replace").rstrip("\r") for line in lines]

    def end(self) -> list[str]:
        """The last line, where it had no end and nobody writes any more."""
        rest, self._rest = self._rest, b""
        return [rest.decode(errors="replace")] if rest else []


def last_line(text: str) -> str:
    """The last line that says something in a message, which may hold a traceback or a log's end."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else ""


def some_lines(lines: Iterable[str], run_id: str, rank: int) -> Iterator[str]:
    """A rank's lines. Raises NotFoundError at their end where there was none: most often there is no such rank."""
    is_empty = True
    for line in lines:
        is_empty = False
        yield line
    if is_empty:
        raise NotFoundError(f"run {run_id} has no output of rank {rank}")


class LineSplitter:
    """Whole lines out of pieces of text."""

    def __init__(self) -> None:
        self._rest = ""

    def feed(self, text: str) -> list[str]:
        """Lines that are complete now."""
        *lines, self._rest = (self._rest + text).split("\n")
        return [line.rstrip("\r") for line in lines]

    def end(self) -> list[str]:
        """The last line, where it had no end."""
        rest, self._rest = self._rest, ""
        return [rest] if rest else []
