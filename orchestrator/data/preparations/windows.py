"""Series into windows: so many rows of past, so many rows of horizon to forecast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from orchestrator.errors import DataError


def cut_windows(
    parts: Iterable[tuple[np.ndarray, np.ndarray]], *, past: int, horizon: int, stride: int, at_once: int
) -> Iterator[np.ndarray]:
    """Windows (B, past + horizon, S), B = ``at_once`` but for the last, in the order in which they are complete.

    A window begins every ``stride`` rows of its series, and never runs over two series. Of each series at most
    past + horizon - 1 rows are kept from one part to the next; how the rows are parted changes nothing.

    Args:
        parts: Values (N, S) and the number of each row's series (N,), in order of time.
        past: Rows that a model sees.
        horizon: Rows to forecast.
        stride: Rows from one window's start to the next one's.
        at_once: Windows that come together.

    Raises:
        DataError: Every series is too short for one window; after the last part.
    """
    length = past + horizon
    all_series: dict[int, _Series] = {}
    waiting: list[np.ndarray] = []
    room = at_once
    for values_NS, series_N in parts:
        held_MS, starts = _completed(all_series, values_NS, series_N, length, stride)
        while len(starts):
            some, starts = starts[:room], starts[room:]
            waiting.append(held_MS[some[:, None] + np.arange(length)])
            room -= len(some)
            if not room:
                windows, waiting, room = np.concatenate(waiting), [], at_once
                yield windows
    if waiting:
        yield np.concatenate(waiting)
    longest = max((series.rows for series in all_series.values()), default=0)
    if longest < length:
        raise DataError(
            f"data.prepare: no series is long enough for one window of {past} + {horizon} = {length} rows: the longest"
            f" part has {longest}; shorten past or horizon, or change the held-out share"
        )


class _Series:
    """How far a series has come, and those of its rows that later windows need."""

    def __init__(self, no_rows: np.ndarray) -> None:
        self.rows = self.next_start = 0
        self.tail = no_rows
        """Rows from ``next_start`` on, where that is before ``rows``."""


def _completed(
    all_series: dict[int, _Series], values_NS: np.ndarray, series_N: np.ndarray, length: int, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows (M, S), and in them the start of each window that ends in this part, in the order of their ends."""
    held, starts, ends, offset = [values_NS[:0]], [series_N[:0]], [series_N[:0]], 0
    order = np.argsort(series_N, kind="stable")
    for places in np.split(order, np.flatnonzero(np.diff(series_N[order])) + 1) if len(order) else []:
        series = all_series.setdefault(int(series_N[places[0]]), _Series(values_NS[:0].copy()))
        before = len(series.tail)
        new = places[max(0, series.next_start - series.rows) :]  # a stride may step over rows
        rows = np.concatenate([series.tail, values_NS[new]])
        first = np.arange(0, len(rows) - length + 1, stride)
        held.append(rows)
        starts.append(offset + first)
        ends.append(new[first + length - 1 - before])
        offset += len(rows)
        series.rows += len(places)
        series.next_start += len(first) * stride
        series.tail = rows[len(first) * stride :].copy()
    return np.concatenate(held), np.concatenate(starts)[np.argsort(np.concatenate(ends))]


def last_value_forecast(past_BPS: np.ndarray, horizon: int) -> np.ndarray:
    """Naive baseline (B, horizon, S): the last known row again and again."""
    return np.repeat(past_BPS[:, -1:], horizon, axis=1)


def seasonal_forecast(past_BPS: np.ndarray, horizon: int, period: int) -> np.ndarray:
    """Naive baseline (B, horizon, S): the last known period again and again."""
    rows = past_BPS.shape[1] - period + np.arange(horizon) % period
    return past_BPS[:, rows]
