"""Events of workers, each in one line again: Ray passes on what it finds in a worker's file, also where that is still being written, and
then the rest of the line as another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orchestrator import events
from orchestrator.narration import FORWARDED


class WholeEvents:
    """Of the lines of all workers, in the order in which they come."""

    def __init__(self) -> None:
        self._begun: dict[str, str] = {}
        """By what Ray puts before a worker's lines: an event whose rest is to come."""

    def of(self, lines: Iterable[str]) -> Iterator[str]:
        """The lines, but for the beginnings of events, which come with their rest."""
        for line in lines:
            forwarded = FORWARDED.match(line)
            if forwarded is None:
                yield line
                continue
            worker, text = forwarded[0], line[forwarded.end() :]
            if begun := self._begun.pop(worker, ""):
                if events.is_part_of_one(text):  # its process was killed, and another has its number
                    yield begun
                else:
                    line = begun + text
            if events.is_part_of_one(line) and events.parse(line) is None and len(line) < _LONGEST:
                self._begun[worker] = line
            else:
                yield line

    def rest(self) -> list[str]:
        """Beginnings whose rest has not come."""
        begun, self._begun = list(self._begun.values()), {}
        return begun


_LONGEST = 1_000_000
"""Characters of a line that is no event whatever comes."""
