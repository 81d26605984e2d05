import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.preparations.series import WindowsKind
from orchestrator.errors import DataError
from orchestrator.spec.preparations import Windows

RANDOM = np.random.default_rng(1)


def table(rows, groups=None):
    columns = {"date": [str(n) for n in range(rows)], "a": RANDOM.normal(5, 3, rows), "b": np.arange(rows)}
    return pa.table(columns | ({} if groups is None else {"shop": groups}))


def run(section, train, held=None):
    kind = WindowsKind()
    fitted = json.loads(json.dumps(kind.fit(section, train, ".")))
    built = pa.concat_tables(list(kind.build(section, fitted, held or train)))
    return {name: built[name].combine_chunks().to_numpy_ndarray() for name in ("past", "future")}, fitted


def test_windows_of_all_numeric_columns():
    whole = table(30)
    section = Windows(past=4, horizon=2, normalize=False)
    windows, fitted = run(section, [whole.slice(0, 13), whole.slice(13)])
    assert fitted["series"] == ["a", "b"]
    assert windows["past"].shape == (25, 4, 2)
    assert windows["past"].dtype == np.float32
    values = np.stack([whole["a"].to_numpy(), whole["b"].to_numpy()], axis=1).astype(np.float32)
    np.testing.assert_array_equal(windows["past"][7], values[7:11])
    np.testing.assert_array_equal(windows["future"][7], values[11:13])


def test_series_by_themselves_are_the_columns_of_those_together():
    whole = [table(30)]
    together, _ = run(Windows(past=4, horizon=2), whole)
    alone, fitted = run(Windows(past=4, horizon=2, together=False), whole)
    assert WindowsKind().dims(Windows(past=4, horizon=2, together=False), fitted)["series"] == 1
    for name in ("past", "future"):
        assert alone[name].shape == (2 * len(together[name]), together[name].shape[1], 1)
        np.testing.assert_array_equal(alone[name][0::2, :, 0], together[name][:, :, 0])
        np.testing.assert_array_equal(alone[name][1::2, :, 0], together[name][:, :, 1])


def test_normalisation_is_fitted_on_training_rows_and_used_on_both():
    train, held = table(200), table(50)
    windows, fitted = run(Windows(past=1, horizon=1, columns=("a",)), [train], [held])
    mean, deviation = train["a"].to_numpy().mean(), train["a"].to_numpy().std()
    np.testing.assert_allclose([fitted["mean"][0], fitted["deviation"][0]], [mean, deviation])
    expected = (held["a"].to_numpy()[:-1] - mean) / deviation
    np.testing.assert_allclose(windows["past"][:, 0, 0], expected, rtol=1e-5, atol=1e-6)


def test_no_window_runs_over_two_groups_and_time_order_is_kept():
    groups = np.array(["x", "y"] * 20)
    section = Windows(past=3, horizon=1, columns=("b",), group="shop", normalize=False)
    windows, _ = run(section, [table(40, groups)])
    whole = np.concatenate([windows["past"], windows["future"]], axis=1)[..., 0]
    assert (np.diff(whole, axis=1) == 2).all()
    assert len(whole) == 2 * 17
    assert (np.diff(whole[:, -1]) == 1).all(), "windows come in the order in which they are complete"


@given(
    groups=st.none() | st.lists(st.sampled_from("xyz"), min_size=60, max_size=60),
    bounds=st.lists(st.integers(0, 60), max_size=10),
    past=st.integers(1, 5),
    horizon=st.integers(1, 3),
    stride=st.integers(1, 12),
    together=st.booleans(),
)
def test_the_sizes_of_tables_change_nothing(groups, bounds, past, horizon, stride, together):
    whole, edges = table(60, groups), [0, *sorted(bounds), 60]
    tables = [whole.slice(first, stop - first) for first, stop in itertools.pairwise(edges)]
    section = Windows(
        past=past,
        horizon=horizon,
        stride=stride,
        columns=("a", "b"),
        group="shop" if groups else None,
        together=together,
        normalize=False,
    )
    of_whole, _ = run(section, [whole])
    of_tables, _ = run(section, tables)
    for name in ("past", "future"):
        np.testing.assert_array_equal(of_tables[name], of_whole[name])


@pytest.mark.parametrize("shops", [None, 10])
def test_memory_does_not_grow_with_the_rows(shops):
    """Ten times the tables, less than 1.1 times the peak."""
    import tracemalloc

    section = Windows(past=8, horizon=4, columns=("a",), group="shop" if shops else None)
    fitted = {"series": ["a"], "mean": [0.0], "deviation": [1.0], "time": None, "step": None}

    def tables(many):
        for _ in range(many):
            yield table(2_000, np.arange(2_000) % shops if shops else None)

    list(WindowsKind().build(section, fitted, tables(1)))
    peaks = []
    for many in (10, 100):
        tracemalloc.start()
        count = sum(len(windows) for windows in WindowsKind().build(section, fitted, tables(many)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == many * 2_000 - 11 * (shops or 1)
    assert peaks[1] < 1.1 * peaks[0]


def test_a_constant_series_comes_out_as_zero():
    windows, _ = run(Windows(past=1, horizon=1), [pa.table({"c": [3.0] * 5})])
    assert not windows["past"].any()


def test_bad_series_are_sentences():
    section = Windows(past=4, horizon=2)
    with pytest.raises(DataError, match=r"one window of 4 \+ 2 = 6 rows: the longest part has 5"):
        run(section, [table(5)])
    with pytest.raises(DataError, match="no column holds numbers"):
        run(section, [pa.table({"date": ["x"]})])
    with pytest.raises(DataError, match="row 1: series 'a' is missing or infinite there"):
        run(section, [pa.table({"a": [1.0, None, 3.0]})])
    with pytest.raises(DataError, match="group 'shop' is missing in 2 rows"):
        run(Windows(past=1, horizon=1, columns=("b",), group="shop"), [table(4, ["x", None, "x", None])])
    with pytest.raises(DataError, match="no column 'z'; the data has"):
        run(Windows(past=4, horizon=2, columns=("z",)), [table(9)])


def test_what_is_known_before_reading():
    assert WindowsKind().dims_before(Windows(past=4, horizon=2), ".") == {"past": 4, "horizon": 2}
    section = Windows(past=4, horizon=2, columns=("a", "b"))
    assert WindowsKind().dims_before(section, ".")["series"] == 2
