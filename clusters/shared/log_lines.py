"""Lines of a rank over all its attempts, read from the run's records, followed while the run goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from orchestrator.clusters.shared.run_records import LONGEST_READ_BYTES, AnyRecord, rank_logs

_POLL_SECONDS = 1.0


def rank_lines(
    record: AnyRecord,
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
        for path in rank_logs(record, rank):
            is_full = True
            while is_full:
                content = record.read_from(path, offsets.get(path, 0))
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
