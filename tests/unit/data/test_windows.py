import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.preparations.windows import cut_windows, last_value_forecast, seasonal_forecast
from orchestrator.errors import DataError


@given(
    series=st.lists(st.integers(0, 3), max_size=80),
    bounds=st.lists(st.integers(0, 80), max_size=12),
    past=st.integers(1, 6),
    horizon=st.integers(1, 4),
    stride=st.integers(1, 15),
    at_once=st.integers(1, 7),
)
def test_windows_are_those_of_the_whole_table_however_it_is_parted(
    series, bounds, past, horizon, stride, at_once
):
    values, numbers = np.arange(2 * len(series)).reshape(-1, 2), np.array(series, dtype=np.int64)
    expected = []
    for number in set(series):
        rows = np.flatnonzero(numbers == number)
        expected += [
            rows[start : start + past + horizon]
            for start in range(0, len(rows), stride)
            if start + past + horizon <= len(rows)
        ]
    expected = values[np.array(sorted(expected, key=lambda rows: rows[-1]), dtype=int)]
    cuts = sorted(bounds)
    parts = zip(np.split(values, cuts), np.split(numbers, cuts), strict=True)
    found = cut_windows(parts, past=past, horizon=horizon, stride=stride, at_once=at_once)
    if not len(expected):
        longest = max(np.bincount(numbers), default=0)
        with pytest.raises(
            DataError, match=rf"no series is long enough .* the longest part has {longest}; shorten"
        ):
            list(found)
        return
    batches = list(found)
    np.testing.assert_array_equal(np.concatenate(batches), expected)
    assert {len(windows) for windows in batches[:-1]} <= {at_once} and len(batches[-1]) <= at_once


def test_naive_forecasts():
    past = np.arange(8, dtype=float).reshape(1, 8, 1)
    assert last_value_forecast(past, 3)[0, :, 0].tolist() == [7, 7, 7]
    assert seasonal_forecast(past, 5, period=3)[0, :, 0].tolist() == [5, 6, 7, 5, 6]
