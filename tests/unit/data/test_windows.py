import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.windows import (
    gather,
    last_value_forecast,
    lengths_of,
    seasonal_forecast,
    split_windows,
)
from orchestrator.errors import DataError


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=4),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.2, 0.5]),
)
def test_no_value_forecast_in_evaluation_is_seen_in_training(lengths, past, horizon, stride, fraction):
    try:
        split = split_windows(lengths, past=past, horizon=horizon, stride=stride, eval_fraction=fraction)
    except DataError:
        return
    series = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.arange(past + horizon)
    seen = np.unique(split.train[:, None] + rows)
    forecast = np.unique(split.eval[:, None] + rows[past:])
    assert not np.intersect1d(seen, forecast).size
    assert split.fit_rows[seen].all()
    assert not split.fit_rows[forecast].any()
    for starts in (split.train, split.eval):
        windows = series[starts[:, None] + rows]  # no window runs from one series into the next
        assert (windows == windows[:, :1]).all()


def test_every_row_after_the_cut_is_forecast_at_stride_one():
    split = split_windows([100], past=10, horizon=1, stride=1, eval_fraction=0.2)
    assert (split.eval + 10).tolist() == list(range(80, 100))
    assert split.train.tolist() == list(range(70))


@pytest.mark.parametrize(
    ("lengths", "fraction", "words"),
    [
        ([10], 0.0, "no series is long enough"),
        ([40], 0.05, "held-out part is too short"),
        ([], 0.0, "no series"),
    ],
)
def test_too_short_series_are_a_sentence(lengths, fraction, words):
    with pytest.raises(DataError, match=words):
        split_windows(lengths, past=8, horizon=4, stride=1, eval_fraction=fraction)


def test_gather_cuts_past_and_future():
    values = np.arange(20, dtype=np.float32).reshape(10, 2)
    past, future = gather(values, np.array([0, 5]), 3, 2)
    assert past[1].tolist() == [[10, 11], [12, 13], [14, 15]]
    assert future[0].tolist() == [[6, 7], [8, 9]]


def test_lengths_follow_the_series_column():
    assert lengths_of(np.array(["a", "a", "b"])) == [2, 1]
    assert lengths_of(np.array([])) == []
    with pytest.raises(DataError, match="sort the table"):
        lengths_of(np.array(["a", "b", "a"]))


def test_naive_forecasts():
    past = np.arange(8, dtype=float).reshape(1, 8, 1)
    assert last_value_forecast(past, 3)[0, :, 0].tolist() == [7, 7, 7]
    assert seasonal_forecast(past, 5, period=3)[0, :, 0].tolist() == [5, 6, 7, 5, 6]
