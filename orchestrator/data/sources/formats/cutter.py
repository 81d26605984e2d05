"""Where rows end in a file of lines, found in pieces, without a loop over its bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_NEWLINE, _RETURN = 10, 13


@dataclass(frozen=True)
class RowRules:
    """What one row is."""

    blank: bytes
    """A row of nothing but these bytes is none."""
    separator: bytes = b""
    """Between two fields; empty where a row is a line, whatever stands in it."""
    quote: bytes = b""
    """Around fields that may hold line breaks; empty where there are none."""


class Cutter:
    """Finds the ends of rows in pieces of a file that follow each other."""

    def __init__(self, rules: RowRules) -> None:
        self._rules = rules
        self._solid = ~np.isin(np.arange(256, dtype=np.uint8), np.frombuffer(rules.blank, np.uint8))
        self._offset = self._line_start = 0
        self._line_is_solid = False
        self._last_byte = _NEWLINE
        self._held = np.empty(0, np.uint8)
        self.quoted = False
        """Whether the file is within a quoted field."""
        self.opened = 0
        """At which byte that field begins."""

    def feed(self, piece: np.ndarray) -> np.ndarray:
        """Ends of rows that this piece decides, as bytes from the beginning of the file."""
        data = np.concatenate([self._held, piece]) if len(self._held) else piece
        known = len(data)
        # What a return or a quote means shows in the byte after it.
        while self._rules.separator and known and data[known - 1] in (_RETURN, self._quote):
            known -= 1
        self._held = data[known:].copy()
        return self._ends(data[:known], int(data[known]) if known < len(data) else None)

    def finish(self) -> np.ndarray:
        """The ends of the last rows."""
        ends = self._ends(self._held, None)
        if self._line_is_solid:
            ends = np.append(ends, self._offset)
        return ends

    @property
    def _quote(self) -> int:
        return self._rules.quote[0] if self._rules.quote else -1

    def _ends(self, data: np.ndarray, after: int | None) -> np.ndarray:
        if not len(data):
            return np.empty(0, np.int64)
        local = self._breaks(data, after)
        solid = self._solid[data].astype(np.uint8)
        starts = np.concatenate(([0], local + 1))
        full = np.maximum.reduceat(solid, starts[starts < len(data)]).astype(bool)
        full[0] |= self._line_is_solid
        self._line_is_solid = bool(full[-1]) if len(full) > len(local) else False
        ends = local[full[: len(local)]] + self._offset + 1
        self._offset += len(data)
        self._last_byte = int(data[-1])
        return ends

    def _breaks(self, data: np.ndarray, after: int | None) -> np.ndarray:
        """Where lines end that no quoted field holds."""
        breaks = data == _NEWLINE
        if not self._rules.separator:
            return np.flatnonzero(breaks)
        following = np.append(data[1:], after if after is not None else 0)
        breaks |= (data == _RETURN) & (following != _NEWLINE)
        places = np.flatnonzero(breaks)
        opens, closes = self._quoted_fields(data, following)
        return places[np.searchsorted(opens, places) <= np.searchsorted(closes, places)]

    def _quoted_fields(self, data: np.ndarray, following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where quoted fields begin and end; one that is open from before begins at -1."""
        quotes = np.flatnonzero(data == self._quote)
        before = np.where(quotes > 0, data[quotes - 1], self._last_byte)
        inside = [-1] if self.quoted else []
        marks = np.concatenate((np.array(inside, np.int64), quotes))
        opens, closes = marks[0::2], marks[1::2]
        borders = np.array([self._rules.separator[0], _NEWLINE, _RETURN, self._quote])
        first = len(inside)
        tidy = np.isin(before[first::2], borders).all() and np.isin(following[closes], [*borders, 0]).all()
        if not tidy:  # a quote within a field that began without one is a letter
            opens, closes = self._one_by_one(quotes, before, following)
        self.quoted = len(opens) > len(closes)
        if self.quoted and opens[-1] >= 0:
            self.opened = self._offset + int(opens[-1])
        return opens, closes

    def _one_by_one(
        self, quotes: np.ndarray, before: np.ndarray, following: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        borders = (self._rules.separator[0], _NEWLINE, _RETURN)
        inside, opens, closes, escaped = self.quoted, [-1] if self.quoted else [], [], -1
        for place, previous in zip(quotes.tolist(), before.tolist(), strict=True):
            if place == escaped:
                continue
            if not inside:
                if previous in borders:
                    inside = True
                    opens.append(place)
            elif following[place] == self._quote:
                escaped = place + 1
            else:
                inside = False
                closes.append(place)
        return np.array(opens, np.int64), np.array(closes, np.int64)
