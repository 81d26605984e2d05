import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.windows import (
    gather,
    last_value_forecast,
    rows_by_series,
    seasonal_forecast,
    window_starts,
)
from orchestrator.errors import DataError


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_windows_are_those_that_stay_within_their_series(lengths, past, horizon, stride):
    expected, first = [], 0
    for length in lengths:
        expected += [first + s for s in range(0, length, stride) if s + past + horizon <= length]
        first += length
    if not expected:
        with pytest.raises(DataError, match="no series is long enough"):
            window_starts(lengths, past=past, horizon=horizon, stride=stride)
    else:
        found = window_starts(lengths, past=past, horizon=horizon, stride=stride)
        assert found.tolist() == expected


def test_gather_cuts_past_and_future():
    values = np.arange(20, dtype=np.float32).reshape(10, 2)
    past, future = gather(values, np.array([0, 5]), 3, 2)
    assert past[1].tolist() == [[10, 11], [12, 13], [14, 15]]
    assert future[0].tolist() == [[6, 7], [8, 9]]


def test_rows_of_a_series_come_together_in_order_of_time():
    order, lengths = rows_by_series(np.array(["b", "a", "b", "c", "a"]))
    assert order.tolist() == [1, 4, 0, 2, 3]
    assert lengths == [2, 2, 1]


def test_naive_forecasts():
    past = np.arange(8, dtype=float).reshape(1, 8, 1)
    assert last_value_forecast(past, 3)[0, :, 0].tolist() == [7, 7, 7]
    assert seasonal_forecast(past, 5, period=3)[0, :, 0].tolist() == [5, 6, 7, 5, 6]
