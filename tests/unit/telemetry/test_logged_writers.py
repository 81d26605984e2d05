"""Models that write a text from a text, from a job to the model in MLflow."""

import json
from pathlib import Path

import mlflow
import pandas as pd
import pyarrow.parquet as pq
import pytest
from asked import train_in
from mlflow import MlflowClient

from orchestrator.errors import DataError, SpecError
from orchestrator.inference.part_writer import PartWriter

pytest.importorskip("transformers")

NUMBERS = {"one": "uno", "two": "dos", "three": "tres", "four": "cuatro"}
PAIRS = list(NUMBERS.items()) * 16
T5 = {
    "model_type": "t5", "vocab_size": 32, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2,
    "dropout_rate": 0.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Learns to say a number in Spanish."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "t5").mkdir()
    (folder / "t5" / "config.json").write_text(json.dumps(T5))
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps({"en": source, "es": target}) + "\n" for source, target in PAIRS)
    )
    pairs = {"kind": "pairs", "source": "en", "target": "es", "tokenizer": {"kind": "words"}, "context": 4}
    return train_in(
        folder,
        {
            "model": {"family": "huggingface", "architecture": "t5", "head": "seq2seq"},
            "objective": {"kind": "sequence_to_sequence", "metrics": ["exact_match", "perplexity"]},
            "data": {
                "train": {"kind": "jsonl", "path": "pairs.jsonl"},
                "eval": {"kind": "split", "fraction": 0.2},
                "prepare": pairs,
            },
            "training": {
                "max_steps": 60,
                "global_batch_size": 32,
                "optimizer": {"kind": "adamw", "learning_rate": 0.01},
            },
            "checkpoint": {"every_steps": 60},
            "tracking": {"kind": "mlflow", "uri": f"sqlite:///{folder / 'mlflow.db'}"},
        },
    )


def test_it_learns_and_what_it_reaches_is_measured(run):
    assert run.metrics["val/exact_match"] == 1.0
    assert run.metrics["val/perplexity"] < 1.3 and run.metrics["val/accuracy"] == 1.0


def test_predictions_are_what_it_writes(run, tmp_path):
    (tmp_path / "new.jsonl").write_text('{"en": "two"}\n{"en": "four"}\n')
    task = run.task(tmp_path / "new.jsonl", tmp_path / "out")
    (tmp_path / "out").mkdir()
    assert PartWriter(task).write(0) == 2
    (file,) = (tmp_path / "out").glob("*.parquet")
    assert pq.read_table(file).to_pydict() == {
        "en": ["two", "four"],
        "prediction": ["dos", "cuatro"],
    }
    with pytest.raises(SpecError, match="it draws none"):
        run.task(tmp_path / "new.jsonl", tmp_path / "out", seed=3)


def test_the_logged_model_takes_raw_text_and_samples_can_be_looked_at(run):
    uri = run.plan.tracking_uri
    mlflow.set_tracking_uri(uri)
    (found,) = mlflow.search_logged_models(
        ["1"], output_format="list", filter_string="tags.`trainwright.model` = 'weights'"
    )
    model = mlflow.pyfunc.load_model(f"models:/{found.model_id}")
    assert model.predict(["one", "three"]) == ["uno", "tres"]
    frame = pd.DataFrame({"en": ["two"]})
    assert model.predict(frame, params={"tokens": 1}) == ["dos"]
    shown = MlflowClient(uri).list_artifacts(found.source_run_id, "samples")
    page = MlflowClient(uri).download_artifacts(found.source_run_id, shown[-1].path)
    text = Path(page).read_text()
    assert "text_0/source" in text and "text_0/target" in text


SHORT = ("red", "green", "blue", "white")


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    """Learns to say a color again."""
    folder = tmp_path_factory.mktemp("chats")
    lines = [
        [{"role": "user", "content": f"say {one}"}, {"role": "assistant", "content": one}]
        for one in SHORT * 16
    ]
    (folder / "chats.jsonl").write_text("".join(json.dumps({"messages": line}) + "\n" for line in lines))
    return train_in(
        folder,
        {
            "model": {"family": "gpt", "size": "debug", "context": 12},
            "objective": {"kind": "causal_lm", "beams": 2},
            "data": {
                "train": {"kind": "jsonl", "path": "chats.jsonl"},
                "eval": {"kind": "split", "fraction": 0.2},
                "prepare": {"kind": "conversations", "tokenizer": {"kind": "words"}, "context": 12},
            },
            "training": {
                "max_steps": 60,
                "global_batch_size": 16,
                "optimizer": {"kind": "adamw", "learning_rate": 0.01},
            },
            "checkpoint": {"every_steps": 60},
            "tracking": {"kind": "mlflow", "uri": f"sqlite:///{folder / 'mlflow.db'}"},
        },
    )


def test_a_question_is_answered_by_the_logged_model_and_by_predict(chat, tmp_path):
    assert chat.metrics["val/accuracy"] > 0.99
    mlflow.set_tracking_uri(chat.plan.tracking_uri)
    (found,) = mlflow.search_logged_models(
        ["1"], output_format="list", filter_string="tags.`trainwright.model` = 'weights'"
    )
    model = mlflow.pyfunc.load_model(f"models:/{found.model_id}")
    asked = [{"role": "user", "content": "say blue"}]
    settings = {"tokens": 3}
    assert model.predict(["say green", json.dumps(asked)], params=settings) == ["green", "blue"]
    assert model.predict(pd.DataFrame({"messages": [asked]}), params=settings) == ["blue"]
    lines = [asked, [*asked, {"role": "assistant", "content": "white"}]]
    (tmp_path / "new.jsonl").write_text("".join(json.dumps({"messages": line}) + "\n" for line in lines))
    (tmp_path / "out").mkdir()
    assert PartWriter(chat.task(tmp_path / "new.jsonl", tmp_path / "out", tokens=3)).write(0) == 2
    (file,) = (tmp_path / "out").glob("*.parquet")
    assert pq.read_table(file).to_pydict() == {"continuation": ["blue", "blue"]}
    with pytest.raises(
        SpecError, match=r"objective\.beams: 2 and writes what a beam search finds; it draws none"
    ):
        chat.task(tmp_path / "new.jsonl", tmp_path / "out", temperature=0.5)
    (tmp_path / "bad.jsonl").write_text('{"messages": [{"role": "user", "content": ""}]}\n')
    with pytest.raises(
        DataError, match=r"bad\.jsonl, row 0: the conversation has a message 0 whose content is empty"
    ):
        PartWriter(chat.task(tmp_path / "bad.jsonl", tmp_path / "out")).write(0)
