"""Metrics over other data: those that training logs, of each row once, whoever shares them."""

import pyarrow.parquet as pq
import pytest
from asked import stones

from orchestrator.errors import DataError
from orchestrator.inference.evaluate import evaluate
from orchestrator.inference.part_writer import PartWriter
from orchestrator.spec.data import CsvSource, FileSource


def measured(run, path=None, workers=1, kind="parquet"):
    source = None
    if path is not None:
        source = CsvSource(path=str(path)) if kind == "csv" else FileSource(kind=kind, path=str(path))
    return evaluate(run.plan, run.saved, source, name="new", workers=workers)


def test_on_the_runs_own_data_they_are_what_its_training_logged(classifier):
    found = measured(classifier)
    assert found.samples == 30
    logged = {name: value for name, value in classifier.metrics.items() if name.startswith("val/")}
    assert {f"val/{name}": value for name, value in found.metrics.items()} == logged


def test_on_other_data_they_count_each_row_once(classifier, tmp_path):
    new = stones(37, seed=5)
    pq.write_table(new, tmp_path / "new.parquet", row_group_size=10)
    found = measured(classifier, tmp_path / "new.parquet")
    task = classifier.task(tmp_path / "new.parquet", tmp_path / "out")
    for part in task.parts:
        PartWriter(task).write(part)
    answers = pq.read_table(tmp_path / "out").to_pandas()
    right = (answers["class"] == answers["input_class"]).mean()
    assert found.samples == 37
    assert found.metrics["accuracy"] == pytest.approx(right)
    shared = measured(classifier, tmp_path / "new.parquet", workers=2)
    assert shared.metrics == pytest.approx(found.metrics, rel=1e-6)
    new.to_pandas().to_csv(tmp_path / "new.csv", index=False)
    assert measured(classifier, tmp_path / "new.csv", kind="csv").metrics == found.metrics


def test_data_without_labels_or_with_a_strange_one_is_refused(classifier, tmp_path):
    pq.write_table(stones(8).drop(["class"]), tmp_path / "new.parquet")
    with pytest.raises(DataError, match=r"new\.parquet: has no column 'class', which makes 'label'"):
        measured(classifier, tmp_path / "new.parquet")
    strange = stones(8).to_pandas().replace({"class": {"chalk": "cheese"}})
    strange.to_parquet(tmp_path / "strange.parquet")
    with pytest.raises(DataError, match=r"strange\.parquet, row \d+: .*'cheese'"):
        measured(classifier, tmp_path / "strange.parquet")


def test_where_the_training_data_has_changed_it_is_refused(classifier, tmp_path):
    pq.write_table(stones(8), tmp_path / "new.parquet")
    trained_on = f"{classifier.plan.base_dir}/stones.parquet"
    pq.write_table(stones(120, seed=77), trained_on, row_group_size=40)
    try:
        with pytest.raises(DataError, match=r"is not what step 40 was trained on: .*has other values"):
            measured(classifier, tmp_path / "new.parquet")
    finally:
        pq.write_table(stones(120), trained_on, row_group_size=40)
