"""From the spool to a tracker, each point once, whoever sends and whenever a sender dies. Knows no tracker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from orchestrator.telemetry.spool import Part, Record, Spool

LARGEST_BATCH = 1_000
"""Metric values that one request takes."""


class Point(NamedTuple):
    """One metric value."""

    name: str
    value: float
    time: int
    """Milliseconds since the epoch."""
    step: int


class Destination(Protocol):
    """A tracker's record of one run. Every method may raise; what a failed ``send`` did is unknown."""

    def sent(self) -> dict[str, int]:
        """How far each part was sent, by its name; kept with the points themselves."""
        ...

    def there(self, points: list[Point]) -> set[tuple[str, int]]:
        """(name, step) of those of the points that have arrived."""
        ...

    def send(self, points: list[Point], sent: Mapping[str, int]) -> None:
        """Add points, and after them how far each part was sent."""
        ...

    def send_file(self, name: str, content: bytes) -> None:
        """Add a file, or put it in the place of one of the same name."""
        ...


class Sender:
    """Sends what a spool has and a destination has not.

    A sender that dies, or gets no answer, leaves at most one batch of a part in doubt. So the first batch of each part,
    and the one after each failure, goes without the points that are there already.
    """

    def __init__(self, spool: Spool, destination: Destination) -> None:
        """Asks the destination how far it was sent before."""
        self._spool, self._destination = spool, destination
        self.sent = destination.sent()
        self._certain: set[Part] = set()

    def send_new(self) -> Iterator[int]:
        """Send all that the spool has now; gives the number of metric values after each batch."""
        for part in self._spool.parts():
            yield from self._send_part(part)

    def _send_part(self, part: Part) -> Iterator[int]:
        batch: list[Record] = []
        size = 0
        for record in self._spool.records(part, self.sent.get(part.name, 0)):
            values = len(record.content.get("values", ()))
            if batch and size + values > LARGEST_BATCH:
                yield self._send_batch(part, batch)
                batch, size = [], 0
            batch.append(record)
            size += values
        if batch:
            yield self._send_batch(part, batch)

    def _send_batch(self, part: Part, batch: list[Record]) -> int:
        for record in batch:
            if "file" in record.content:
                name = record.content["file"]
                self._destination.send_file(name, self._spool.file(name))
        points = [point for record in batch for point in points_of(record)]
        sent = {**self.sent, part.name: batch[-1].end}
        is_certain = part in self._certain
        self._certain.discard(part)
        fresh = points
        if points and not is_certain:
            there = self._destination.there(points)
            fresh = [point for point in points if (point.name, point.step) not in there]
        self._destination.send(fresh, sent)
        self._certain.add(part)
        self.sent = sent
        return len(fresh)


def points_of(record: Record) -> list[Point]:
    """The metric values of a record."""
    content = record.content
    values = content.get("values", {})
    return [Point(name, value, content["time"], content["step"]) for name, value in values.items()]
