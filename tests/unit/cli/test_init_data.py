"""``init --data`` writes a job that runs for the files that it is given."""

import csv
import json
import math
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import feather


def write_csv(path, header, rows, separator=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(header)
        writer.writerows(rows)


def test_a_table_of_words_dates_and_gaps(init, tmp_path):
    towns = ["Oslo", "Bergen", "", "Tromsø"]
    rows = [
        [
            i + 100,
            towns[i % 4],
            f"2021-{1 + i % 12:02}-{1 + i % 28:02}",
            "" if i % 7 == 0 else i,
            ["true", "false", ""][i % 3],
            "same",
            "yes" if i % 4 else "no",
        ]
        for i in range(120)
    ]
    write_csv(tmp_path / "p.csv", ["id", "town", "joined", "age", "member", "country", "churn"], rows)
    plan, text = init("--data", "p.csv")
    assert plan.job.model.family == "mlp" and plan.job.objective.kind == "classification"
    assert plan.job.data.columns == {
        "features": ("age", "member"),
        "categories": ("town",),
        "dates": ("joined",),
        "label": "churn",
    }
    assert [(one.kind, one.tensor) for one in plan.job.data.transforms] == [
        ("date", "dates"),
        ("join", "features"),
        ("impute", "features"),
        ("normalize", "features"),
        ("impute", "categories"),
        ("encode", "categories"),
        ("encode", "label"),
    ]
    for said in (
        "to predict: churn (its name says so); 2 classes",
        "left out: id, because it numbers the rows",
        "left out: country, because it is 'same' everywhere",
        "numbers are missing in age, member: filled with",
        "words are missing in town",
    ):
        assert said in text


def test_a_table_as_it_is_written_elsewhere(init, tmp_path):
    rows = [[f"{1 + i % 28:02}.03.2020", f"{i / 10 + 20:.1f}".replace(".", ","), i * 1.5] for i in range(80)]
    write_csv(
        tmp_path / "preise.csv",
        ["datum", "fläche", "preis"],
        [[*row[:2], str(row[2]).replace(".", ",")] for row in rows],
        ";",
    )
    plan, text = init("--data", "preise.csv")
    assert plan.job.objective.kind == "regression"
    assert plan.job.data.transforms[0].format == "%d.%m.%Y"
    assert "separator ';', decimal ','" in text and "the last column: a guess" in text


def test_thousands_that_can_be_read_in_two_ways(init, tmp_path):
    write_csv(tmp_path / "t.csv", ["a", "label"], [[f"{1000 + 37 * i:,}", "ab"[i % 2]] for i in range(60)])
    plan, text = init("--data", "t.csv")
    assert plan.job.data.train.thousands == "," and plan.job.data.columns["features"] == ("a",)
    assert "none like 1,5" in text


@pytest.mark.parametrize(
    ("values", "objective", "says", "transforms"),
    [
        ([-1, 1], "classification", "2 classes, of the values -1, 1", ["encode"]),
        ([0, 1, 2], "classification", "3 classes", []),
        (["a", "b", ""], "classification", "2 classes", ["drop", "encode"]),
        ([0.25, 0.5, 1.75], "regression", "numbers, so regression", []),
    ],
)
def test_what_a_label_is(init, tmp_path, values, objective, says, transforms):
    write_csv(tmp_path / "t.csv", ["x", "label"], [[i / 7, values[i % len(values)]] for i in range(120)])
    plan, text = init("--data", "t.csv")
    assert plan.job.objective.kind == objective and says in text
    assert [one.kind for one in plan.job.data.transforms if one.tensor == "label"] == transforms


def test_a_label_may_be_named(init, tmp_path):
    write_csv(tmp_path / "t.csv", ["x", "y", "z"], [[i / 7, i % 2, i / 3] for i in range(120)])
    plan, _ = init("--data", "t.csv", "--label", "z")
    assert plan.job.data.columns == {"features": ("x", "y"), "label": "z"}
    assert "--label q: no such column; there is x, y, z" in init(
        "--data", "t.csv", "--label", "q", "--force", code=2
    )
    assert "give both" in init("--label", "z", "--force", code=2)
    assert "leave --family out" in init("--data", "t.csv", "--family", "mlp", "--force", code=2)


def test_series_where_a_column_of_time_is_evident(init, tmp_path):
    days = np.arange("2022-01-01", "2022-06-01", dtype="datetime64[D]")
    write_csv(tmp_path / "s.csv", ["day", "load"], [[str(day), math.sin(i)] for i, day in enumerate(days)])
    plan, text = init("--data", "s.csv")
    assert (plan.job.model.family, plan.job.objective.kind) == ("lstm", "forecasting")
    assert plan.job.data.prepare.time == "day" and "series to forecast" in text
    write_csv(
        tmp_path / "g.csv",
        ["day", "shop", "sales"],
        [[str(day), shop, i % 7] for i, day in enumerate(days) for shop in ("north", "south")],
    )
    plan, _ = init("--data", "g.csv", "--force")
    assert plan.job.data.prepare.group == "shop"


def test_texts_with_a_label_and_alone(init, tmp_path):
    texts = [f"this film number {i} was {'good' if i % 2 else 'bad'} said they" for i in range(120)]
    write_csv(tmp_path / "r.csv", ["review", "sentiment"], [[t, "np"[i % 2]] for i, t in enumerate(texts)])
    plan, _ = init("--data", "r.csv")
    assert plan.job.model.family == "gru" and plan.job.data.prepare.label == "sentiment"
    (tmp_path / "book.txt").write_text("\n\n".join(texts))
    plan, _ = init("--data", "book.txt", "--force")
    assert plan.job.model.family == "gpt" and plan.job.data.train.rows == "paragraph"


def images(folder, sizes):
    for number, size in enumerate(sizes):
        for name in ("cat", "dog"):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((size, size, 3), number, np.uint8)).save(folder / name / f"{number}.png")


def test_folders_of_images(init, tmp_path):
    images(tmp_path / "pets/train", [30, 40, 50] * 4)
    images(tmp_path / "pets/val", [40] * 3)
    plan, text = init("--data", "pets")
    assert plan.job.model.family == "cnn" and plan.job.data.eval.path == "pets/val"
    assert [one.kind for one in plan.job.data.transforms] == ["resize", "normalize"]
    assert "images are of several sizes" in text
    images(tmp_path / "same", [16] * 10)
    plan, _ = init("--data", "same", "--force")
    assert [one.kind for one in plan.job.data.transforms] == ["normalize"]


def parquet(tmp_path):
    pq.write_table(pa.table({"a": np.arange(60) / 7, "label": np.arange(60) % 3}), tmp_path / "t.parquet")
    return "t.parquet"


def json_lines(tmp_path):
    rows = [{"n": i / 7, "word": "uv"[i % 2], "meta": {"a": 1}, "label": "kl"[i % 2]} for i in range(60)]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "t.jsonl"


def arrow(tmp_path):
    table = pa.table({"a": np.arange(60) / 7, "label": np.arange(60) % 3})
    feather.write_feather(table, tmp_path / "t.feather", compression="uncompressed")
    return "t.feather"


def numpy_folder(tmp_path):
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy/image.npy", np.zeros((60, 1, 16, 16), np.float32))
    np.save(tmp_path / "npy/label.npy", np.arange(60) % 3)
    return "npy"


def webdataset(tmp_path):
    images(tmp_path / "loose", [16] * 20)
    with tarfile.open(tmp_path / "w.tar", "w") as tar:
        for number, path in enumerate(sorted((tmp_path / "loose").rglob("*.png"))):
            tar.add(path, f"{number:04}.png")
            (tmp_path / "cls").write_text(str(number % 2))
            tar.add(tmp_path / "cls", f"{number:04}.cls")
    return "w.tar"


@pytest.mark.parametrize(
    ("write", "family"),
    [(parquet, "mlp"), (json_lines, "mlp"), (arrow, "mlp"), (numpy_folder, "cnn"), (webdataset, "cnn")],
)
def test_other_formats(init, tmp_path, write, family):
    plan, _ = init("--data", write(tmp_path))
    assert plan.job.model.family == family and plan.job.objective.kind == "classification"


def test_what_is_no_data_is_one_sentence_and_writes_nothing(init, tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"PK")
    assert "known are .arrow, " in init("--data", "a.xlsx", code=3)
    assert not (tmp_path / "job.yaml").exists()
    assert "no such file or folder" in init("--data", "nothing.csv", code=3)
