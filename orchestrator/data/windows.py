"""Series into windows: so many rows of past, so many rows of horizon to forecast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.errors import DataError


def window_starts(lengths: Sequence[int], *, past: int, horizon: int, stride: int) -> np.ndarray:
    """First row of each window, int64 (N,): every ``stride`` rows while the window stays within its series.

    Args:
        lengths: Rows of each series, one after the other in the table.
        past: Rows that a model sees.
        horizon: Rows to forecast.
        stride: Rows from one window's start to the next one's.

    Raises:
        DataError: Every series is too short for one window.
    """
    need, starts, first = past + horizon, [np.empty(0, dtype=np.int64)], 0
    for length in lengths:
        starts.append(first + np.arange(0, length - need + 1, stride, dtype=np.int64))
        first += length
    found = np.concatenate(starts)
    if not len(found):
        raise DataError(
            f"data.prepare: no series is long enough for one window of {past} + {horizon} = {need} rows: the longest"
            f" part has {max(lengths, default=0)}; shorten past or horizon, or change the held-out share"
        )
    return found


def rows_by_series(groups: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The order that puts the rows of each series together, each in the order they had, and each one's length.

    Args:
        groups: The series of each row; rows stand in order of time, whatever series they are of.
    """
    if not len(groups):
        return np.empty(0, dtype=np.int64), []
    _, number, lengths = np.unique(groups, return_inverse=True, return_counts=True)
    return np.argsort(number, kind="stable"), lengths.tolist()


def gather(
    values_NS: np.ndarray, start_B: np.ndarray, past: int, horizon: int
) -> tuple[np.ndarray, np.ndarray]:
    """Past (B, past, S) and future (B, horizon, S) of the windows that start at the given rows."""
    window = values_NS[start_B[:, None] + np.arange(past + horizon)[None, :]]
    return window[:, :past], window[:, past:]


def last_value_forecast(past_BPS: np.ndarray, horizon: int) -> np.ndarray:
    """Naive baseline (B, horizon, S): the last known row again and again."""
    return np.repeat(past_BPS[:, -1:], horizon, axis=1)


def seasonal_forecast(past_BPS: np.ndarray, horizon: int, period: int) -> np.ndarray:
    """Naive baseline (B, horizon, S): the last known period again and again."""
    rows = past_BPS.shape[1] - period + np.arange(horizon) % period
    return past_BPS[:, rows]
