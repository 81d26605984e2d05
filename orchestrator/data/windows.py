"""Series into windows: so many rows of past, so many rows of horizon to forecast.

Windows are never written out: a window is the row it starts at, and ``gather`` cuts all windows of a batch at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.errors import DataError


@dataclass(frozen=True)
class WindowSplit:
    """First rows of the windows of each side, int64 (N,), and which rows statistics may be fitted on.

    ``fit_rows`` is bool (rows,): the rows before the cut, which are all that training windows can see.
    """

    train: np.ndarray
    eval: np.ndarray
    fit_rows: np.ndarray


def split_windows(
    lengths: Sequence[int], *, past: int, horizon: int, stride: int, eval_fraction: float
) -> WindowSplit:
    """Windows of each series, split by position.

    A training window lies wholly before its series' cut, the horizon of an evaluation window wholly after it; its
    past may reach back over the cut, since at that time those values are known. So no value that is forecast in
    evaluation was seen in training.

    Args:
        lengths: Rows of each series, one after the other in the table.
        past: Rows that a model sees.
        horizon: Rows to forecast.
        stride: Rows from one window's start to the next one's.
        eval_fraction: Share of each series' rows, its last ones, that is held out; 0: none.

    Raises:
        DataError: Every series is too short for one training window, or (with a held-out share) for one
            evaluation window.
    """
    train, held, fit = [], [], []
    first = 0
    for length in lengths:
        cut = length - round(length * eval_fraction)
        train.append(first + np.arange(0, cut - past - horizon + 1, stride, dtype=np.int64))
        if eval_fraction:
            begin = max(0, cut - past)
            held.append(first + np.arange(begin, length - past - horizon + 1, stride, dtype=np.int64))
        fit.append(np.arange(length) < cut)
        first += length
    empty = np.empty(0, dtype=np.int64)
    split = WindowSplit(
        np.concatenate([empty, *train]),
        np.concatenate([empty, *held]),
        np.concatenate([np.empty(0, bool), *fit]),
    )
    need = past + horizon
    longest = max(lengths, default=0)
    if not len(split.train):
        raise DataError(
            f"no series is long enough for one training window of {past} + {horizon} = {need} rows: the longest has"
            f" {longest - round(longest * eval_fraction)} before the held-out part; shorten past or horizon"
        )
    if eval_fraction and not len(split.eval):
        raise DataError(
            f"the held-out part is too short for a horizon of {horizon} rows: the longest series has"
            f" {round(longest * eval_fraction)} there; raise data.eval.fraction or shorten horizon"
        )
    return split


def lengths_of(groups: np.ndarray) -> list[int]:
    """Rows of each series, where ``groups`` names the series of each row.

    Raises:
        DataError: The rows of a series don't stand together.
    """
    if not len(groups):
        return []
    borders = np.flatnonzero(groups[1:] != groups[:-1]) + 1
    starts = np.concatenate([[0], borders])
    names = groups[starts]
    if len(np.unique(names)) != len(names):
        raise DataError(
            "the rows of a series must stand together in order of time: sort the table by series and time"
        )
    return np.diff(np.concatenate([starts, [len(groups)]])).tolist()


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
