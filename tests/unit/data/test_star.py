"""``"*"`` says what it takes and what it leaves, and what would mend that."""

import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import sdk
from orchestrator.data import inspect_data


@pytest.mark.parametrize("small_bytes", [2**26, 0], ids=["prepared", "looked at"])
def test_the_plan_lists_the_columns_that_a_star_takes_and_leaves(tmp_path, monkeypatch, small_bytes):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(inspect_data, "SMALL_BYTES", small_bytes)
    rows = 40
    table = pa.table(
        {
            "size": [float(i) for i in range(rows)],
            "age": list(range(rows)),
            "town": ["a", "b"] * (rows // 2),
            "born": [datetime.date(2020, 1, 1)] * rows,
            "meta": [{"x": 1}] * rows,
            "label": [0, 1] * (rows // 2),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "job.yaml").write_text(
        "name: star\nmodel: {family: mlp, size: debug}\n"
        "data:\n  train: {kind: parquet, path: t.parquet}\n  columns: {features: '*', label: label}\n"
        "training: {max_steps: 2, global_batch_size: 4}\ntracking: {kind: none}\n"
    )
    notes = sdk.make_plan(tmp_path / "job.yaml").notes
    assert 'data.columns.features: "*" takes 2 of 6 columns: size, age' in notes
    (words,) = (note for note in notes if "leaves out town: words" in note)
    assert "{kind: encode, tensor: categories}" in words
    (dates,) = (note for note in notes if "leaves out born: dates" in note)
    assert "{kind: date, tensor: dates}" in dates and "append: [dates]" in dates
    assert any(
        "leaves out meta: a struct; name the field that is meant, e.g. meta.x" in note for note in notes
    )
    named = sdk.make_plan(tmp_path / "job.yaml", overrides=["data.columns.features=[size, age]"]).notes
    assert not any('"*"' in note for note in named)
