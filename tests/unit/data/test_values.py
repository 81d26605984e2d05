"""A number, a class and a column are what the file says, wherever they are read; what is missing is said."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_jobs import job_of
from PIL import Image

from orchestrator import going_on
from orchestrator.data.columns.layout import finished
from orchestrator.data.fit import training_batches
from orchestrator.data.meaning import changed_meaning
from orchestrator.data.prepare_data import prepare_job
from orchestrator.data.prepared import Prepared, PreparedSource
from orchestrator.data.transforms import apply_all
from orchestrator.errors import DataError, SpecError
from orchestrator.own_code import OwnCode

ENCODE = {"kind": "encode", "tensor": "label"}
ALL = {"features": "*"}
IDS = [100000001 + i % 4 for i in range(20)]


def prepared(folder: Path, data: dict[str, Any], **job: Any) -> Prepared:
    return prepare_job(job_of(data, **job), str(folder), str(folder / "cache"))


def tensors(
    folder: Path, data: dict[str, Any], *, held_out: bool = False, **job: Any
) -> dict[str, np.ndarray]:
    """All rows of a source as the loop gets them."""
    made = prepared(folder, data, **job)
    source: PreparedSource = made.train[0]
    if held_out:
        assert made.evaluation is not None
        source = made.evaluation
    spec = job_of(data, **job)
    batches = [
        finished(apply_all(spec.data.transforms, made.fitted, batch, training=False), source.layouts)
        for batch in training_batches([source], 0)
    ]
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def refused(folder: Path, data: dict[str, Any], **job: Any) -> str:
    with pytest.raises((DataError, SpecError)) as caught:
        prepared(folder, data, **job)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parquet(folder: Path, name: str = "rows.parquet", **columns: Any) -> dict[str, Any]:
    pq.write_table(pa.table(columns), folder / name)
    return {"kind": "parquet", "path": str(folder / name)}


def text(folder: Path, name: str, content: str) -> dict[str, Any]:
    (folder / name).write_text(content)
    return {"kind": "csv" if name.endswith("csv") else "jsonl", "path": str(folder / name)}


def pictures(folder: Path, *names: str) -> dict[str, Any]:
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8)).save(folder / name / f"{number}.png")
    return {"kind": "images", "path": str(folder)}


HALF = [i % 2 for i in range(20)]
X = [float(i) for i in range(20)]


def test_a_class_of_images_has_its_training_number_in_evaluation(tmp_path):
    train, held_out = pictures(tmp_path / "train", "a", "b", "c"), pictures(tmp_path / "eval", "a", "c")
    data = {"train": train, "eval": held_out}
    assert tensors(tmp_path, data, family="cnn", held_out=True)["label"].tolist() == [0, 0, 2, 2]
    made = prepared(tmp_path, data, family="cnn")
    assert made.classes == ("a", "b", "c")
    assert any("has no samples of the classes 'b'" in note for note in made.notes)


def test_a_class_that_training_lacks_is_named(tmp_path):
    train, held_out = pictures(tmp_path / "train", "a", "c"), pictures(tmp_path / "eval", "a", "b")
    message = refused(tmp_path, {"train": train, "eval": held_out}, family="cnn")
    assert "has the class 'b', which the training data lacks; it has 'a', 'c'" in message


def test_classes_of_a_mix_are_numbered_over_all_its_sources(tmp_path):
    mix = [pictures(tmp_path / "one", "b", "c"), pictures(tmp_path / "two", "a", "b")]
    made = prepared(tmp_path, {"train": mix}, family="cnn")
    labels = [batch["label"].tolist() for source in made.train for batch in training_batches([source], 0)]
    assert made.classes == ("a", "b", "c") and made.dims["outputs"] == 3
    assert labels == [[1, 1, 2, 2], [0, 0, 1, 1]]


def test_columns_are_matched_by_name(tmp_path):
    train = text(
        tmp_path, "train.csv", "a,b,label\n" + "".join(f"{i},{i * 100},{i % 2}\n" for i in range(20))
    )
    rows = "".join(f"{i * 100},{i},{i % 2},7\n" for i in range(20))
    held_out = text(tmp_path, "eval.csv", "b,a,label,z\n" + rows)
    data = {"train": train, "eval": held_out, "columns": ALL}
    assert tensors(tmp_path, data, held_out=True)["features"][3].tolist() == [3, 300]
    assert any("lacks, which are not read: 'z'" in note for note in prepared(tmp_path, data).notes)
    renamed = text(tmp_path, "renamed.csv", "b,aa,label\n" + "1,2,0\n1,2,1\n")
    message = refused(tmp_path, data | {"eval": renamed})
    assert "renamed.csv: has no column 'a', which makes 'features'" in message
    assert "it has 'b', 'aa', 'label'" in message


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint32(), pa.uint64(), pa.float64(), pa.decimal128(19, 0)])
def test_categories_keep_all_their_digits(kind, tmp_path):
    data = {
        "train": parquet(tmp_path, x=X, uid=pa.array(IDS).cast(kind), label=HALF),
        "columns": {"features": "x", "categories": "uid"},
        "transforms": [{"kind": "encode", "tensor": "categories"}],
    }
    assert tensors(tmp_path, data)["categories"][:, 0].tolist() == [i % 4 for i in range(20)]


def test_numbers_past_63_bits_are_classes_and_no_negative_outputs(tmp_path):
    ids = pa.array([2**63 + i % 3 for i in range(20)], pa.uint64())
    data = {"train": parquet(tmp_path, x=X, label=ids), "columns": {"features": "x"}}
    assert "row 0: 9223372036854775808 in column 'label' takes more than 64 bits" in refused(tmp_path, data)
    data["transforms"] = [ENCODE]
    assert tensors(tmp_path, data)["label"].tolist() == [i % 3 for i in range(20)]
    assert prepared(tmp_path, data).classes[0] == str(2**63)


def test_a_gap_in_identifiers_is_missing_or_a_category_and_changes_no_other(tmp_path):
    rows = "".join(f"{i},{'' if i == 3 else IDS[i]},{i % 2}\n" for i in range(20))
    encode = {"kind": "encode", "tensor": "categories"}
    data = {
        "train": text(tmp_path, "ids.csv", "x,uid,label\n" + rows),
        "columns": {"features": "x", "categories": ["uid"]},
        "transforms": [encode],
    }
    assert "ids.csv, row 3: column 'uid' has no value there" in refused(tmp_path, data)
    numbers = tensors(tmp_path, data | {"skip_bad_samples": 1})["categories"][:, 0]
    assert numbers.tolist() == [i % 4 for i in range(20) if i != 3]
    data["transforms"] = [{"kind": "impute", "tensor": "categories", "by": "category"}, encode]
    filled = tensors(tmp_path, data)["categories"][:, 0]
    assert filled.tolist() == [4 if i == 3 else i % 4 for i in range(20)]


@pytest.mark.parametrize("before", [[], [{"kind": "impute", "tensor": "features"}]])
def test_large_numbers_that_lie_close_stay_apart(before, tmp_path):
    data = {
        "train": parquet(tmp_path, x=1.7e9 + np.arange(200.0), label=np.arange(200) % 2),
        "columns": ALL,
        "transforms": [*before, {"kind": "normalize", "tensor": "features"}],
    }
    features = tensors(tmp_path, data)["features"]
    expected = (np.arange(200) - 99.5) / np.arange(200).std()
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("labels", [[bool(i % 2) for i in range(20)], [float(i % 2) for i in range(20)]])
def test_labels_may_be_true_and_false_or_whole_fractions(labels, tmp_path):
    data = {"train": parquet(tmp_path, x=X, label=labels), "columns": {"features": "x"}}
    assert tensors(tmp_path, data)["label"].tolist() == HALF
    assert prepared(tmp_path, data).dims["outputs"] == 2


@pytest.mark.parametrize(
    ("labels", "objective", "message"),
    [
        ([*HALF[:19], 0.5], "classification", "row 19: 0.5 in column 'label' is no whole number"),
        ([*HALF[:19], 2**40], "classification", "which would make 1,099,511,627,777 classes of 20 samples"),
        ([0] * 20, "classification", "every label is of one class"),
        ([i % 2 * 2 - 1 for i in range(20)], "classification", "is -1, but classes are numbered from 0"),
        (list(range(20)), "binary", "row 2: the label in column 'label' is 2, but binary takes 0 and 1"),
    ],
)
def test_labels_that_can_not_be_meant(labels, objective, message, tmp_path):
    data = {"train": parquet(tmp_path, x=X, label=labels), "columns": {"features": "x"}}
    assert message in refused(tmp_path, data, objective={"kind": objective})


def test_regression_predicts_no_classes(tmp_path):
    data = {
        "train": parquet(tmp_path, x=X, label=[str(i % 2) for i in range(20)]),
        "columns": {"features": "x"},
        "transforms": [ENCODE],
    }
    assert "regression predicts numbers" in refused(tmp_path, data, objective={"kind": "regression"})


def test_an_evaluation_label_that_training_lacks_is_found_when_prepared(tmp_path):
    data = {
        "train": parquet(tmp_path, x=X, label=HALF),
        "eval": parquet(tmp_path, "eval7.parquet", x=X, label=[*HALF[:19], 7]),
        "columns": {"features": "x"},
    }
    assert "eval7.parquet, row 19: the label in column 'label' is 7, but there are 2 classes" in refused(
        tmp_path, data
    )


GAPS: dict[str, Any] = {
    "csv": lambda folder: text(
        folder, "gap.csv", "a,label\n" + "".join(f"{i},{'' if i == 5 else 'xy'[i % 2]}\n" for i in range(20))
    ),
    "jsonl": lambda folder: text(
        folder,
        "gap.jsonl",
        "".join(f'{{"a": {i}, "label": "{"" if i == 5 else "xy"[i % 2]}"}}\n' for i in range(20)),
    ),
    "parquet": lambda folder: parquet(
        folder, "gap.parquet", a=X, label=["" if i == 5 else "xy"[i % 2] for i in range(20)]
    ),
    "null": lambda folder: parquet(
        folder, "gap.parquet", a=X, label=[None if i == 5 else "xy"[i % 2] for i in range(20)]
    ),
}


@pytest.mark.parametrize("kind", GAPS)
def test_an_empty_label_is_no_class(kind, tmp_path):
    data = {"train": GAPS[kind](tmp_path), "columns": {"features": "a"}, "transforms": [ENCODE]}
    assert ", row 5: column 'label' has no value there" in refused(tmp_path, data)
    data["skip_bad_samples"] = 1
    assert tensors(tmp_path, data)["label"].tolist() == [i % 2 for i in range(20) if i != 5]


def test_a_missing_target_is_found_before_training_and_may_be_skipped(tmp_path):
    rows = "".join(f"{i},{'' if i == 5 else i * 1.5}\n" for i in range(20))
    data: dict[str, Any] = {
        "train": text(tmp_path, "t.csv", "a,label\n" + rows),
        "columns": {"features": "a"},
    }
    objective = {"kind": "regression"}
    assert "t.csv, row 5: column 'label' has no value there" in refused(tmp_path, data, objective=objective)
    data["skip_bad_samples"] = 1
    labels = tensors(tmp_path, data, objective=objective)["label"]
    assert labels.tolist() == [i * 1.5 for i in range(20) if i != 5]


def test_numbers_that_some_samples_lack_stay_missing_where_the_objective_takes_them_so(tmp_path):
    first, second = [i if i % 3 else None for i in range(20)], [None if i == 4 else i / 2 for i in range(20)]
    source = parquet(tmp_path, x=X, first=pa.array(first, pa.int8()), second=second)
    data: dict[str, Any] = {
        "train": source,
        "eval": source,
        "columns": {"features": "x", "label": ["first", "second"]},
    }
    assert "column 'first' has no value there" in refused(tmp_path, data, objective={"kind": "regression"})
    objective = {"kind": "regression", "missing_labels": True}
    wanted = np.array([first, second], dtype=np.float32).T
    for held_out in (False, True):
        read = tensors(tmp_path, data, objective=objective, held_out=held_out)
        assert np.array_equal(read["label"], wanted, equal_nan=True)
    one = data | {"columns": {"features": "x", "label": "first"}}
    assert np.array_equal(tensors(tmp_path, one, objective=objective)["label"], wanted[:, 0], equal_nan=True)


def test_labels_that_some_samples_lack_are_zero_one_or_missing(tmp_path):
    first, second = (
        [i % 2 if i % 3 else None for i in range(20)],
        [None if i == 4 else i < 9 for i in range(20)],
    )
    source = parquet(tmp_path, x=X, first=pa.array(first, pa.int8()), second=second)
    data: dict[str, Any] = {"train": source, "columns": {"features": "x", "label": ["first", "second"]}}
    strict = {"objective": {"kind": "multilabel"}}
    assert "column 'first' has no value there" in refused(tmp_path, data, **strict)
    objective = {"kind": "multilabel", "missing_labels": True}
    read = tensors(tmp_path, data, objective=objective)["label"]
    assert read.dtype == np.float32
    assert np.array_equal(read, np.array([first, second], dtype=np.float32).T, equal_nan=True)
    encoded = data | {"transforms": [{"kind": "encode", "tensor": "label"}]}
    assert "leave the encode of label out" in refused(tmp_path, encoded, objective=objective)


@pytest.mark.parametrize(("value", "objective"), [(2, {}), (0.5, {"missing_labels": True})])
def test_a_label_that_is_neither_yes_nor_no_is_named(tmp_path, value, objective):
    source = parquet(tmp_path, x=X, one=[0] * 20, other=[1] * 12 + [value] + [0] * 7)
    data: dict[str, Any] = {"train": source, "columns": {"features": "x", "label": ["one", "other"]}}
    told = refused(tmp_path, data, objective={"kind": "multilabel", **objective})
    assert f"row 12: the label in column 'other' is {value}, but multilabel takes 0 and 1" in told


def test_normalize_learns_a_label_from_what_is_there(tmp_path):
    label = [None if i % 3 == 0 else float(i) for i in range(20)]
    data: dict[str, Any] = {
        "train": parquet(tmp_path, x=X, a=label, b=list(range(20))),
        "columns": {"features": "x", "label": ["a", "b"]},
        "transforms": [{"kind": "normalize", "tensor": "label"}],
    }
    read = tensors(tmp_path, data, objective={"kind": "regression", "missing_labels": True})["label"]
    wanted = np.array([label, range(20)], dtype=np.float64).T
    wanted = (wanted - np.nanmean(wanted, axis=0)) / np.nanstd(wanted, axis=0)
    np.testing.assert_allclose(read, wanted, rtol=1e-5)
    data["train"] = parquet(tmp_path, x=X, a=[float("nan")] * 20, b=list(range(20)))
    told = refused(tmp_path, data, objective={"kind": "regression", "missing_labels": True})
    assert "normalize finds a column of 'label' without any value" in told


@pytest.mark.parametrize(
    ("words", "labels", "column"),
    [
        (["good", None, "bad", "fair"], [0.0, 1.0, 0.0, 1.0], "text"),
        (["good", "so", "bad", "fair"], [0.0, float("nan"), 0.0, 1.0], "stars"),
        (["good", "so", "bad", "fair"], ["up", " ", "down", "up"], "stars"),
    ],
)
def test_tokenize_takes_no_gap_for_a_text_or_a_class(words, labels, column, tmp_path):
    data: dict[str, Any] = {
        "train": parquet(tmp_path, text=words, stars=labels),
        "prepare": {
            "kind": "tokenize",
            "column": "text",
            "label": "stars",
            "tokenizer": {"kind": "words"},
            "context": 8,
        },
    }
    job = {"family": "bert", "objective": {"kind": "classification"}, "batch": 2}
    assert f"rows.parquet, row 1: column '{column}' has no value there" in refused(tmp_path, data, **job)
    data["skip_bad_samples"] = 1
    made = prepared(tmp_path, data, **job)
    assert (made.train_samples, made.dims["outputs"]) == (3, 2)
    for _ in range(2):  # the second time from the cache
        notes = prepared(tmp_path, data, **job).notes
        assert any(
            "1 of 4 training rows lack text or stars, or don't fit, and are skipped" in note for note in notes
        )


def test_a_text_that_is_too_long_to_tokenize_is_said_with_file_and_row_and_can_be_skipped(tmp_path):
    data: dict[str, Any] = {
        "train": parquet(tmp_path, text=["one two", "one " * 5, "two", "one"], stars=[0, 1, 0, 1]),
        "prepare": {
            "kind": "tokenize",
            "label": "stars",
            "tokenizer": {"kind": "words"},
            "context": 5,
            "long": "error",
        },
    }
    job = {"family": "bert", "objective": {"kind": "classification"}, "batch": 2}
    told = refused(tmp_path, data, **job)
    assert (
        "rows.parquet, row 1: the text in column 'text' has 5 tokens, and 4 fit; raise data.prepare.context"
        in told
    )
    data["skip_bad_samples"] = 1
    made = prepared(tmp_path, data, **job)
    assert made.train_samples == 3
    assert any("1 of 4 training rows" in note for note in made.notes)
    data["prepare"] |= {"context": 6}
    assert prepared(tmp_path, data, **job).train_samples == 4


def test_tokenize_takes_numbers_and_keeps_those_that_are_missing(tmp_path):
    prepare = {"kind": "tokenize", "column": "text", "tokenizer": {"kind": "smiles"}, "context": 8}
    data: dict[str, Any] = {
        "train": parquet(
            tmp_path,
            text=["CCO", "c1ccccc1", "ClC", "CBr"],
            soluble=[0.5, None, -1.5, float("nan")],
            heavy=pa.array([3, 6, None, 2], pa.int16()),
            word=["a", "b", "c", "d"],
        ),
        "prepare": prepare | {"numbers": ["soluble", "heavy"]},
    }
    job = {"family": "bert", "objective": {"kind": "regression", "missing_labels": True}, "batch": 2}
    labels = tensors(tmp_path, data, **job)["label"]
    assert np.array_equal(labels, [[0.5, 3], [np.nan, 6], [-1.5, np.nan], [np.nan, 2]], equal_nan=True)
    assert prepared(tmp_path, data, **job).dims["outputs"] == 2
    strict = job | {"objective": {"kind": "regression"}}
    assert "rows.parquet, row 1 has no value in 'soluble'" in refused(tmp_path, data, **strict)
    yes_or_no = {"kind": "multilabel", "missing_labels": True}
    odd = refused(tmp_path, data, **(job | {"objective": yes_or_no}))
    assert "is 0.5, but multilabel takes 0 and 1, or no value" in odd
    as_classes = job | {"objective": {"kind": "classification"}}
    assert "to predict numbers give objective: {kind: regression}" in refused(tmp_path, data, **as_classes)
    data["prepare"] = prepare | {"label": "word"}
    assert "give numbers: [word] in place of it" in refused(tmp_path, data, **job)
    data["prepare"] = prepare | {"numbers": ["word"]}
    assert "column 'word' is string, not numbers" in refused(tmp_path, data, **job)


def test_files_of_one_source_are_matched_by_name(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    text(folder, "1.csv", "a,b,label\n" + "".join(f"{i},{i * 100},{i % 2}\n" for i in range(10)))
    text(folder, "2.csv", "z,label,b,a\n" + "".join(f"w,{i % 2},{i * 100},{i}\n" for i in range(10, 20)))
    data = {"train": {"kind": "csv", "path": str(folder)}, "columns": ALL}
    assert tensors(tmp_path, data)["features"].tolist() == [[i, i * 100] for i in range(20)]
    assert any("lacks are not read: 'z' of " in note for note in prepared(tmp_path, data).notes)
    text(folder, "3.csv", "a,c,label\n1,2,0\n")
    message = refused(tmp_path, data)
    assert "3.csv: has no column 'b', which" in message and "it has 'a', 'c', 'label'" in message


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl"])
def test_columns_that_only_later_files_have_are_said(kind, tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    tables = [pa.table({"x": X, "label": HALF}), pa.table({"label": HALF, "y": X, "x": X})]
    for number, table in enumerate(tables):
        path = folder / f"{number}.{kind}"
        if kind == "parquet":
            pq.write_table(table, path)
        elif kind == "arrow":
            with pa.ipc.new_file(path, table.schema) as file:
                file.write_table(table)
        else:
            path.write_text("".join(f"{json.dumps(row)}\n" for row in table.to_pylist()))
    data = {"train": {"kind": kind, "path": str(folder)}, "columns": ALL}
    assert tensors(tmp_path, data)["features"].tolist() == [[x] for x in X * 2]
    assert any("lacks are not read: 'y' of " in note for note in prepared(tmp_path, data).notes)


@pytest.mark.parametrize(
    "left_out",
    [
        {"prepare": {"kind": "select", "column": "label", "without": [1]}},
        {"transforms": [{"kind": "drop", "tensor": "label"}]},
    ],
)
def test_classes_keep_their_names_when_rows_are_left_out(left_out, tmp_path):
    data = {"train": pictures(tmp_path / "train", "a", "b", "c"), **left_out}
    made = prepared(tmp_path, data, family="cnn")
    assert (made.classes, made.dims["outputs"]) == (("a", "b", "c"), 3)


def meaning(folder: Path, rows: dict[str, Any], **data: Any) -> dict[str, Any]:
    made = prepared(folder, {"train": parquet(folder, "meant.parquet", **rows), **data})
    return dict(made.identity["meaning"])


def test_other_rows_may_mean_the_same_and_other_classes_do_not(tmp_path):
    words = ["red", "blue"] * 10
    data: dict[str, Any] = {
        "columns": {"features": "*", "categories": ["color"]},
        "transforms": [ENCODE, {"kind": "encode", "tensor": "categories"}],
    }
    rows: dict[str, Any] = {"x": X, "color": words, "label": ["no", "yes"] * 10}
    before = meaning(tmp_path, rows, **data)
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({"x": [1.0, *X[1:]]}, None),
        ({"label": ["no", "so"] * 10}, "number 1 of the classes was 'yes', now it is 'so'"),
        ({"label": ["no", "yes"] * 9 + ["zero"] * 2}, "the classes were 2, now they are 3"),
        (
            {"color": ["red", "green"] * 10},
            "number 0 of the categories of column 0 of 'categories' was 'blue', now it is 'green'",
        ),
        ({"w": X}, "the columns of 'features' were 1, now they are 2"),
    ]
    for changed, difference in cases:
        assert changed_meaning(before, meaning(tmp_path, rows | changed, **data)) == difference


def test_a_text_label_under_regression_is_given_the_mend_of_numbers(tmp_path):
    data = {"train": parquet(tmp_path, x=X, label=["1,5", "n/a"] * 10), "columns": {"features": "x"}}
    message = refused(tmp_path, data, objective={"kind": "regression"})
    assert "column 'label' of" in message and "regression predicts numbers" in message
    assert "give the source its decimal, thousands or missing" in message


def test_an_unseen_category_names_file_row_and_column(tmp_path):
    colors = ["red", "blue"] * 10
    data = {
        "train": parquet(tmp_path, x=X, color=colors, label=HALF),
        "eval": parquet(tmp_path, "eval.parquet", x=X, color=[*colors[:11], "pink", *colors[:8]], label=HALF),
        "columns": {"features": "x", "categories": ["color"]},
        "transforms": [{"kind": "encode", "tensor": "categories"}],
    }
    assert "eval.parquet, row 11: column 'color' has 'pink', which no training row has" in refused(
        tmp_path, data
    )


def test_an_infinite_value_names_file_row_and_column(tmp_path):
    y = [*X[:7], float("inf"), *X[8:]]
    normalize = {"kind": "normalize", "tensor": "features"}
    data = {"train": parquet(tmp_path, x=X, y=y, label=HALF), "columns": ALL, "transforms": [normalize]}
    message = refused(tmp_path, data)
    assert "rows.parquet, row 7: column 'y' is infinite" in message and "{kind: clip" in message
    data["transforms"] = [{"kind": "clip", "tensor": "features", "low": 0, "high": 99}, normalize]
    assert np.isfinite(tensors(tmp_path, data)["features"]).all()


ENDS = {"kind": "normalize", "tensor": "features"}
DAY = np.datetime64("2026-01-01") + np.arange(20)
COLORS = ["red", "blue"] * 10
CROOKED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a number is missing": ({"x": [None, *X[1:]]}, {"transforms": [ENDS]}, "{kind: impute}"),
    "a label is missing": ({"x": X, "label": [None, *HALF[1:]]}, {}, "there; {kind: drop, tensor: label}"),
    "a category is missing": (
        {"x": X, "c": [None, *COLORS[1:]]},
        {
            "columns": {"features": "x", "categories": ["c"]},
            "transforms": [ENCODE | {"tensor": "categories"}],
        },
        "{kind: impute}",
    ),
    "words among features": (
        {"x": X, "c": COLORS},
        {"columns": {"features": ["x", "c"]}},
        "{kind: encode, tensor",
    ),
    "only words": ({"c": COLORS}, {"columns": {"features": "*"}}, "{kind: encode, tensor: categories}"),
    "words as label": ({"x": X, "label": COLORS}, {}, "{kind: encode, tensor: label}"),
    "dates among features": (
        {"x": X, "d": DAY},
        {"columns": {"features": ["x", "d"]}},
        "{kind: date, tensor: dates}",
    ),
    "dates": ({"d": DAY}, {"columns": {"features": ["d"]}}, "{kind: date, tensor: features}"),
    "a struct": (
        {"s": [{"x": x} for x in X]},
        {"columns": {"features": ["s"]}},
        "name the field that is meant, e.g. s.x",
    ),
    "a struct encoded": (
        {"x": X, "s": [{"x": x} for x in X]},
        {
            "columns": {"features": "x", "categories": ["s"]},
            "transforms": [ENCODE | {"tensor": "categories"}],
        },
        "e.g. s.x",
    ),
    "a map": (
        {"m": pa.array([[("k", x)] for x in X], pa.map_(pa.string(), pa.float64()))},
        {"columns": {"features": ["m"]}},
        "write it as numbers",
    ),
    "lists of many lengths": (
        {"x": [[1.0] * (1 + i % 2) for i in range(20)]},
        {"columns": {"features": ["x"]}},
        "write lists of one length",
    ),
    "fractions as classes": (
        {"x": X, "label": [i / 2 for i in range(20)]},
        {},
        "objective: {kind: regression}",
    ),
    "numbers and infinite": (
        {"x": [float("inf"), *X[1:]]},
        {"transforms": [ENDS]},
        "{kind: clip, tensor: features",
    ),
    "an unfit imputation": (
        {"x": X, "c": COLORS},
        {
            "columns": {"features": "x", "categories": "c"},
            "transforms": [{"kind": "impute", "tensor": "categories"}],
        },
        "by: category",
    ),
}


@pytest.mark.parametrize("name", CROOKED)
def test_a_table_is_refused_with_what_mends_it(name, tmp_path):
    columns, data, mend = CROOKED[name]
    rows = parquet(tmp_path, **{"label": HALF, **columns})
    message = refused(tmp_path, {"train": rows, "columns": {"features": "x"}, **data})
    assert mend in message, message


def test_digits_that_float32_loses_are_said(tmp_path):
    close = {"x": 1.7e9 + np.arange(200.0), "y": np.arange(200) * 0.1, "label": np.arange(200) % 2}
    data: dict[str, Any] = {"train": parquet(tmp_path, **close), "columns": ALL}
    said = [note for note in prepared(tmp_path, data).notes if "float32" in note]
    assert len(said) == 1 and "column 'x' has values near 1.7e+09" in said[0] and "kind: normalize" in said[0]
    data["transforms"] = [ENDS]
    assert not [note for note in prepared(tmp_path, data).notes if "float32" in note]


def test_the_series_that_a_star_takes_and_leaves_are_said(tmp_path):
    rows = parquet(tmp_path, v=X, w=X, on=[True, False] * 10, word=COLORS)
    data = {"train": rows, "prepare": {"kind": "windows", "past": 4, "horizon": 2}}
    notes = prepared(tmp_path, data, family="rnn", objective={"kind": "forecasting"}, batch=2).notes
    assert 'data.prepare.columns: "*" takes 2 of 4 columns: v, w' in notes
    assert 'data.prepare.columns: "*" leaves out word: string, not numbers; write them as numbers' in notes


def test_changed_data_is_accepted_only_where_its_numbers_mean_the_same(tmp_path):
    data = {"columns": {"features": "x"}, "transforms": [ENCODE]}

    def go_on(label: list[str]) -> str:
        """What is logged or raised when a run goes on with these rows, after ``no`` and ``yes``."""
        files = [tmp_path / name for name in ("before", "now")]
        for folder in files:
            folder.mkdir(exist_ok=True)
        before = prepared(files[0], {**data, "train": parquet(files[0], x=X, label=["no", "yes"] * 10)})
        now = prepared(files[1], {**data, "train": parquet(files[1], x=[9.0, *X[1:]], label=label)})
        job = job_of({"train": {"kind": "builtin", "name": "iris"}}, recovery={"accept_changed_data": True})
        loaded: list[Any] = []
        plan = SimpleNamespace(job=job, storage=str(tmp_path / "run"))
        rank: Any = SimpleNamespace(plan=plan, number=0, load=loaded.append)
        kept: Any = SimpleNamespace(meta={"identity": before.identity, "code": ""}, step=3)
        try:
            assert going_on.go_on_from(kept, rank, now, 1, OwnCode({}))[0] == 3 and loaded == [kept]
        except DataError as error:
            assert not loaded
            return str(error)
        return ""

    assert go_on(["no", "yes"] * 10) == ""
    assert "number 1 of the classes was 'yes', now it is 'so'; put it back" in go_on(["no", "so"] * 10)
