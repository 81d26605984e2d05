"""Predictions as files: a row of theirs for each row of the data, in order, in the words of the training data."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from asked import KINDS, stones

from orchestrator.errors import DataError, SpecError
from orchestrator.inference.part_writer import PartWriter


def written(task):
    """All parts, by one worker, read back as a person would."""
    writer = PartWriter(task)
    for part in task.parts:
        writer.write(part)
    return pq.read_table(task.output)


def test_each_row_is_answered_once_beside_its_own_columns(classifier, tmp_path):
    new = stones(70, seed=1)
    (tmp_path / "new").mkdir()
    pq.write_table(new.slice(0, 40), tmp_path / "new" / "a.parquet", row_group_size=16)
    pq.write_table(new.slice(40), tmp_path / "new" / "b.parquet", row_group_size=16)
    task = classifier.task(tmp_path / "new", tmp_path / "out")
    assert len(task.parts) == 5
    answers = written(task)
    assert answers["id"].to_pylist() == new["id"].to_pylist()
    assert answers["input_class"].to_pylist() == new["class"].to_pylist(), "its own name is the answer's"
    frame = answers.to_pandas()
    assert set(frame["class"]) <= set(KINDS)
    assert (frame["class"] == frame["input_class"]).mean() > 0.9
    for row in frame.itertuples():
        assert set(row.probabilities) == set(KINDS)
        assert row.probabilities[frame["class"][row.Index]] == row.probability
    assert answers.schema.field("probabilities").type.num_fields == 3


def test_the_same_rows_as_csv_get_the_same_answers(classifier, tmp_path):
    new = stones(30, seed=2).drop(["class"])
    pq.write_table(new, tmp_path / "new.parquet")
    new.to_pandas().to_csv(tmp_path / "new.csv", index=False)
    of_parquet, of_csv = (
        written(classifier.task(tmp_path / f"new.{kind}", tmp_path / kind)) for kind in ("parquet", "csv")
    )
    assert of_parquet["probability"].equals(of_csv["probability"])
    assert of_parquet["class"].equals(of_csv["class"])


def test_a_row_that_cant_be_read_is_named(classifier, tmp_path):
    new = stones(30, seed=2).to_pandas()
    new.loc[21, "place"] = "moon"
    pq.write_table(pa.Table.from_pandas(new), tmp_path / "new.parquet", row_group_size=10)
    task = classifier.task(tmp_path / "new.parquet", tmp_path / "out")
    with pytest.raises(
        DataError, match=r"new\.parquet, row 21: 'categories' has 'moon', which no training row has"
    ):
        written(task)
    assert not (tmp_path / "out" / "part-000002.parquet").exists()


def test_what_can_not_be_asked_is_said_before_anything_starts(classifier, tmp_path):
    pq.write_table(stones(8).drop(["size"]), tmp_path / "new.parquet")
    pq.write_table(stones(8), tmp_path / "good.parquet")
    (tmp_path / "notes.doc").write_text("words")
    with pytest.raises(DataError, match=r"has no column 'size', which the model reads; it has id, weight"):
        classifier.task(tmp_path / "new.parquet", tmp_path / "out")
    with pytest.raises(DataError, match=r"nothing in it ends as data does"):
        classifier.task(tmp_path / "notes.doc", tmp_path / "out")
    with pytest.raises(DataError, match="there is no such file"):
        classifier.task(tmp_path / "none.parquet", tmp_path / "out")
    with pytest.raises(DataError, match=r"--keep ident: .*has no such column; it has id"):
        classifier.task(tmp_path / "good.parquet", tmp_path / "out", keep=("ident",))
    for asked in ({"tokens": 5}, {"temperature": 0.5}):
        with pytest.raises(
            SpecError, match="--tokens, --seed and --temperature are for models that write text"
        ):
            classifier.task(tmp_path / "good.parquet", tmp_path / "out", **asked)
    assert classifier.task(tmp_path / "good.parquet", tmp_path / "out", keep=("id",)).kept == ("id",)


def test_numbers_are_predicted_as_numbers(train, tmp_path):
    pq.write_table(stones(64), tmp_path / "stones.parquet")
    run = train(
        {
            "model": {"family": "mlp", "size": "debug"},
            "objective": {"kind": "regression"},
            "data": {
                "train": {"kind": "parquet", "path": "stones.parquet"},
                "columns": {"features": ["weight"], "label": "size"},
            },
        }
    )
    answers = written(run.task(tmp_path / "stones.parquet", tmp_path / "out"))
    assert answers.schema.field("prediction").type == pa.float32()
    assert len(answers) == 64


def test_reconstructions_are_told_by_their_errors(train, tmp_path):
    pq.write_table(stones(64), tmp_path / "stones.parquet")
    run = train(
        {
            "model": {"family": "autoencoder", "size": "debug"},
            "data": {
                "train": {"kind": "parquet", "path": "stones.parquet"},
                "columns": {"features": ["weight", "size"]},
            },
        }
    )
    answers = written(run.task(tmp_path / "stones.parquet", tmp_path / "out", keep=["id"]))
    assert answers.column_names == ["id", "error"]
    assert min(answers["error"].to_pylist()) > 0


def series(days: int) -> pd.DataFrame:
    times = pd.date_range("2026-01-01", periods=days)
    shops = (("north", 10.0), ("south", 500.0))
    rows = [
        {"day": day, "shop": shop, "sold": level + 0.1 * number}
        for shop, level in shops
        for number, day in enumerate(times)
    ]
    return pd.DataFrame(rows)


def test_forecasts_follow_each_series_however_it_is_cut_into_groups(train, tmp_path):
    table = pa.Table.from_pandas(series(40), preserve_index=False)
    pq.write_table(table, tmp_path / "sales.parquet")
    run = train(
        {
            "model": {"family": "lstm", "size": "debug"},
            "objective": {"kind": "forecasting"},
            "data": {
                "train": {"kind": "parquet", "path": "sales.parquet"},
                "prepare": {"kind": "windows", "past": 8, "horizon": 3, "group": "shop", "time": "day"},
            },
        }
    )
    pq.write_table(table, tmp_path / "cut.parquet", row_group_size=7)
    whole, cut = (
        written(run.task(tmp_path / f"{name}.parquet", tmp_path / name)) for name in ("sales", "cut")
    )
    assert whole.equals(cut)
    assert whole["shop"].to_pylist() == ["north"] * 3 + ["south"] * 3
    assert str(whole["day"][0].as_py()).startswith("2026-02-10")


TEXT = {
    "model": {"family": "gpt", "size": "debug"},
    "data": {
        "train": {"kind": "text", "path": "words.txt"},
        "prepare": {"kind": "pack", "tokenizer": {"kind": "bytes"}, "context": 16},
    },
}


def test_what_a_language_model_writes_depends_on_seed_and_row_alone(train, tmp_path):
    (tmp_path / "words.txt").write_text("a stone fell into the sea\n" * 30)
    run = train(TEXT)
    texts = pa.table({"text": ["one", "two", "three", "four"]})
    pq.write_table(texts, tmp_path / "whole.parquet")
    pq.write_table(texts, tmp_path / "cut.parquet", row_group_size=1)
    whole, cut, other = (
        written(run.task(tmp_path / f"{name}.parquet", tmp_path / f"{name}{seed}", tokens=6, seed=seed))
        for name, seed in (("whole", 1), ("cut", 1), ("cut", 2))
    )
    assert whole["continuation"].to_pylist() == cut["continuation"].to_pylist()
    assert cut["continuation"].to_pylist() != other["continuation"].to_pylist()
    assert whole.column_names == ["text", "continuation"]
    cold = [
        written(run.task(tmp_path / "cut.parquet", tmp_path / f"cold{seed}", seed=seed, temperature=0))
        for seed in (1, 2)
    ]
    assert cold[0]["continuation"].to_pylist() == cold[1]["continuation"].to_pylist(), "nothing is drawn"
    with pytest.raises(SpecError, match="--temperature -1: must be 0 or a number above it"):
        run.task(tmp_path / "cut.parquet", tmp_path / "out", temperature=-1.0)


def test_a_generator_answers_no_rows(train, tmp_path):
    run = train(
        {
            "model": {"family": "gan", "size": "debug"},
            "data": {"train": {"kind": "builtin", "name": "digits"}},
        }
    )
    pq.write_table(stones(4), tmp_path / "new.parquet")
    with pytest.raises(SpecError, match="trained with adversarial: it makes samples from noise"):
        run.task(tmp_path / "new.parquet", tmp_path / "out")


OWN = """
from torch import nn


class Scores(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 3)

    def forward(self, features):
        return self.layer(features)
"""


def test_a_model_of_ones_own_answers_too(train, tmp_path):
    (tmp_path / "own_stones.py").write_text(OWN)
    pq.write_table(stones(64), tmp_path / "stones.parquet")
    run = train(
        {
            "model": {"family": "custom", "factory": "own_stones:Scores"},
            "objective": {"kind": "classification"},
            "data": {
                "train": {"kind": "parquet", "path": "stones.parquet"},
                "columns": {"features": ["weight", "size"], "label": "class"},
                "transforms": [{"kind": "encode", "tensor": "label"}],
            },
        }
    )
    answers = written(run.task(tmp_path / "stones.parquet", tmp_path / "out"))
    assert set(answers["class"].to_pylist()) <= set(KINDS)
