"""Metrics over other data: those that training logs, of each row once, whoever shares them."""

import pyarrow.parquet as pq
import pytest
import torch
from asked import stones
from safetensors.torch import load_file

from orchestrator.checkpoint.export import export
from orchestrator.checkpoint.reader import CheckpointReader
from orchestrator.errors import DataError, SpecError
from orchestrator.inference.evaluate import evaluate, with_metrics
from orchestrator.inference.part_writer import PartWriter
from orchestrator.spec.data import CsvSource, FileSource


def measured(run, path=None, workers=1, kind="parquet", averaged=False):
    source = None
    if path is not None:
        source = CsvSource(path=str(path)) if kind == "csv" else FileSource(kind=kind, path=str(path))
    return evaluate(run.plan, run.saved, source, name="new", averaged=averaged, workers=workers)


def test_on_the_runs_own_data_they_are_what_its_training_logged(classifier):
    found = measured(classifier)
    assert found.samples == 30
    logged = {name: value for name, value in classifier.metrics.items() if name.startswith("val/")}
    assert {f"val/{name}": value for name, value in found.metrics.items()} == logged


def test_with_averages_they_are_what_its_training_logged_of_them(train, tmp_path):
    """Under names that no metric of the weights themselves has; and predictions and exports are theirs too."""
    pq.write_table(stones(64), tmp_path / "stones.parquet", row_group_size=16)
    run = train(
        {
            "model": {"family": "mlp", "size": "debug"},
            "objective": {"kind": "classification"},
            "data": {
                "train": {"kind": "parquet", "path": "stones.parquet"},
                "eval": {"kind": "split", "fraction": 0.25},
                "columns": {"features": ["weight", "size"], "label": "class"},
                "transforms": [{"kind": "encode", "tensor": "label"}],
            },
            "training": {"max_steps": 12, "ema": {"decay": 0.9}, "optimizer": {"learning_rate": 0.05}},
            "checkpoint": {"keep": {"metric": "val/ema/loss"}},
        }
    )
    live, found = measured(run), measured(run, averaged=True)
    assert found.metrics.keys() == {f"ema/{name}" for name in live.metrics}
    both = live.metrics | found.metrics
    assert {f"val/{name}": value for name, value in both.items()} == {
        name: value for name, value in run.metrics.items() if name.startswith("val/")
    }
    assert found.metrics["ema/loss"] != live.metrics["loss"]
    answers = {}
    for averaged in (False, True):
        task = run.task(tmp_path / "stones.parquet", tmp_path / str(averaged), averaged=averaged)
        PartWriter(task).write(0)
        answers[averaged] = pq.read_table(tmp_path / str(averaged))["probability"].to_pylist()
    assert answers[True] != answers[False]
    config, objective = run.plan.job.model, run.plan.job.objective
    (weights, _) = export(run.saved, tmp_path / "out", config, objective, "safetensors", averaged=True)
    with CheckpointReader(run.saved) as reader:
        for name, tensor in load_file(weights).items():
            assert torch.equal(tensor.flatten(), reader.read("ema", name, 0, tensor.numel()))


def test_where_there_are_none_it_is_said(classifier, tmp_path):
    said = r"--ema: .* keeps no averages of its weights; train with training\.ema"
    with pytest.raises(SpecError, match=said):
        measured(classifier, averaged=True)
    pq.write_table(stones(8), tmp_path / "new.parquet")
    with pytest.raises(SpecError, match=said):
        classifier.task(tmp_path / "new.parquet", tmp_path / "out", averaged=True)
    job = classifier.plan.job
    for kind in ("safetensors", "torch"):
        with pytest.raises(SpecError, match="holds no averages"):
            export(classifier.saved, tmp_path / "out", job.model, job.objective, kind, averaged=True)
    assert not (tmp_path / "out").exists()


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


def test_more_is_measured_than_in_training(classifier):
    asked = with_metrics(classifier.plan, ("f1", "auroc"))
    found = evaluate(asked, classifier.saved, None, name="new", averaged=False, workers=1)
    usual = measured(classifier).metrics
    assert found.metrics.keys() == usual.keys() | {"f1_macro", "f1_micro", "auroc"}
    assert usual.items() <= found.metrics.items()
    assert found.metrics["f1_micro"] == pytest.approx(found.metrics["accuracy"])
    with pytest.raises(
        SpecError, match=r"--metrics r2: classification has no such metric; it has precision, recall"
    ):
        with_metrics(classifier.plan, ("f1", "r2"))
    assert with_metrics(classifier.plan, ()) == classifier.plan
