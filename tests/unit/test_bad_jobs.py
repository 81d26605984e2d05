"""What a person gets wrong between data and model: each ends in one sentence that says what to change."""

import csv
import json
import time

import numpy as np
import pytest
from PIL import Image

from orchestrator import data, sdk, worker
from orchestrator.errors import DataError, SpecError, TrainwrightError

TEXT = "The quick brown fox jumps over the lazy dog.\n" * 30


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """The plan and the prepared data of a job in a folder of its own."""
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))

    def prepare(model: dict, source: dict, **sections):
        whole = {
            "name": "bad",
            "model": model,
            "data": {"train": source, "reader": "worker", **sections.pop("data", {})},
            "training": {"max_steps": 4, "global_batch_size": 4},
            "scaling": {"workers": 1},
            "tracking": {"kind": "none"},
            **sections,
        }
        path = tmp_path / "bad.json"
        path.write_text(json.dumps(whole))
        plan = sdk.make_plan(path)
        return plan.model_copy(update={"storage": str(tmp_path / plan.run_id)}), data.prepare(plan)

    return prepare


def run(plan, prepared):
    worker.run(
        {
            "plan": plan.model_dump_json(),
            "prepared": prepared.model_dump_json(),
            "launch": 1,
            "started_at": time.time(),
        }
    )


def pack(context=16):
    return {"prepare": {"kind": "pack", "tokenizer": {"kind": "characters"}, "context": context}}


def table(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("size", "context", "said"),
    [
        (
            {"vocabulary": 10},
            {},
            r"model.vocabulary: is 10, but the data has \d+ \(vocabulary\); leave it out",
        ),
        (
            {"context": 16},
            {"context": 32},
            r"model.context is 16, but data.prepare.context makes sequences of 32 tokens",
        ),
    ],
    ids=["vocabulary", "context"],
)
def test_text_that_does_not_fit_the_model(prepared, tmp_path, size, context, said):
    (tmp_path / "corpus.txt").write_text(TEXT)
    with pytest.raises(SpecError, match=said):
        prepared(
            {"family": "gpt", "size": "debug", **size},
            {"kind": "text", "path": "corpus.txt"},
            data=pack(**context),
        )


@pytest.mark.parametrize("kind", ["characters", "bytes", "words", "bpe"])
def test_an_empty_text_file(prepared, tmp_path, kind):
    (tmp_path / "corpus.txt").write_text("")
    sections = pack()
    sections["prepare"]["tokenizer"] = {"kind": kind}
    with pytest.raises(DataError, match=r"empty|no rows|no text"):
        prepared({"family": "gpt", "size": "debug"}, {"kind": "text", "path": "corpus.txt"}, data=sections)


@pytest.mark.parametrize(
    ("strange", "error", "said"),
    [
        (7, DataError, r"table\.csv, row 13: the label in column 'label' is 7, but there are 3 classes"),
        (
            -1,
            DataError,
            r"table\.csv, row 13: the label in column 'label' is -1, but classes are numbered from 0",
        ),
    ],
)
def test_a_label_out_of_range_wherever_it_stands(prepared, tmp_path, strange, error, said):
    rows = [{"size": place, "label": place % 3} for place in range(16)]
    rows[13]["label"] = strange
    table(tmp_path / "table.csv", rows)
    with pytest.raises(error, match=said):
        run(
            *prepared(
                {"family": "mlp", "size": "debug", "outputs": 3},
                {"kind": "csv", "path": "table.csv"},
                data={"columns": {"features": ["size"]}, "shuffle": False},
            )
        )


def test_a_category_that_no_training_row_has(prepared, tmp_path):
    table(tmp_path / "train.csv", [{"color": c, "label": i} for i, c in enumerate(("red", "blue"))] * 8)
    table(tmp_path / "eval.csv", [{"color": "green", "label": 1}])
    with pytest.raises(
        DataError,
        match=r"eval\.csv, row 0: column 'color' has 'green', which no training row has; give unseen",
    ):
        prepared(
            {"family": "mlp", "size": "debug"},
            {"kind": "csv", "path": "train.csv"},
            objective={"kind": "binary"},
            data={
                "eval": {"kind": "csv", "path": "eval.csv"},
                "columns": {"categories": ["color"]},
                "transforms": [{"kind": "encode", "tensor": "categories"}],
            },
        )


def test_images_of_mixed_sizes(prepared, tmp_path):
    for number, side in enumerate((8, 8, 8, 12)):
        folder = tmp_path / "images" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((side, side), np.uint8)).save(folder / f"{number}.png")
    with pytest.raises(DataError, match=r"cat/3\.png: the image is 12 x 12, others are 8 x 8; add a resize"):
        run(*prepared({"family": "cnn", "size": "debug"}, {"kind": "images", "path": "images"}))


def test_a_size_that_does_not_exist(prepared, tmp_path):
    (tmp_path / "corpus.txt").write_text(TEXT)
    with pytest.raises(TrainwrightError, match="gpt has no size '13b'; it has debug, nano, 124m"):
        prepared({"family": "gpt", "size": "13b"}, {"kind": "text", "path": "corpus.txt"}, data=pack())
