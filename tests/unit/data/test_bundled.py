import numpy as np
import pytest

from orchestrator.data.columns.arrays import numbers
from orchestrator.data.sources import bundled


def test_the_language_reference_is_english_text():
    texts = bundled.pydoc_topics()["text"].to_pylist()
    assert len(texts) > 50
    assert sum(map(len, texts)) > 400_000
    assert "expression" in " ".join(texts)


def test_docstrings_say_what_they_are_of():
    table = bundled.docstrings()
    assert set(table["kind"].to_pylist()) == {"module", "class", "function"}
    assert {"asyncio", "email", "json"} <= set(table["package"].to_pylist())
    assert table.num_rows > 5000
    assert min(map(len, table["text"].to_pylist())) > 0


def test_imports_are_those_of_the_source():
    table = bundled.imports()
    assert table.num_rows == len(
        set(zip(table["file"].to_pylist(), table["module"].to_pylist(), strict=True))
    )
    assert 0.02 < np.mean(table["imported"].to_pylist()) < 0.2
    known = {(row["file"], row["module"]): row["imported"] for row in table.to_pylist()}
    assert known["tempfile.py", "os"] == 1
    assert known["tempfile.py", "email"] == 0


def test_spikes_are_ahead_of_what_the_signal_shows():
    potential = bundled.neuron()["potential"].to_numpy()
    table = bundled.neuron_spikes()
    signal = numbers(table["signal"].combine_chunks(), "signal", str, missing=False)
    label = table["label"].to_numpy()
    assert signal.shape[1:] == (2, 200)
    assert 0.03 < label.mean() < 0.3
    for row in range(0, len(signal), 97):
        now = 200 + 4 * row
        np.testing.assert_array_equal(signal[row, 0], potential[now - 200 : now])
        ahead = potential[now - 1 : now + 20]
        assert label[row] == ((ahead[1:] > -0.2) & (ahead[:-1] <= -0.2)).any()


@pytest.mark.parametrize("name", sorted(bundled.TABLES.keys() - {"docstrings", "imports"}))
def test_a_table_is_the_same_each_time(name):
    assert bundled.TABLES[name]().equals(bundled.TABLES[name]())
