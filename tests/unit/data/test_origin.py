"""Data sets in the tracker: the names that a person wrote, and digests that tell values and parts apart."""

import json

from orchestrator.data.prepare_data import prepare_job
from orchestrator.spec.load import load_spec

JOB = {
    "name": "moods",
    "model": {"family": "rnn", "size": "debug"},
    "objective": {"kind": "classification"},
    "data": {
        "train": {"kind": "jsonl", "path": "./texts/moods.jsonl"},
        "eval": {"kind": "split", "fraction": 0.25},
        "prepare": {
            "kind": "tokenize",
            "tokenizer": {"kind": "words"},
            "context": 4,
            "classify": False,
            "label": "mood",
        },
    },
    "training": {"max_steps": 2, "global_batch_size": 4},
}


def origin(folder, word="good"):
    (folder / "texts").mkdir(exist_ok=True)
    rows = [{"text": f"{mood} again", "mood": mood} for mood in (word, "bad") * 8]
    (folder / "texts" / "moods.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return prepare_job(load_spec(JOB), str(folder), str(folder / "cache")).lineage


def test_a_data_set_has_the_name_that_was_written_and_a_digest_of_its_values(tmp_path):
    first = origin(tmp_path)
    assert {part["name"] for part in first.values()} == {"texts/moods.jsonl"}
    assert [json.loads(first[part]["profile"])["samples"] for part in ("train", "eval")] == [12, 4]
    columns = [column["name"] for column in json.loads(first["train"]["schema"])["columns"]]
    assert columns == ["text", "mood"], "the columns of the file, not of what was made of it"
    assert first["train"]["digest"] != first["eval"]["digest"], "MLflow would take both for one"
    assert origin(tmp_path) == first
    assert origin(tmp_path, word="fine")["train"]["digest"] != first["train"]["digest"]
