"""Bad data and sizes that don't fit are one sentence from ``plan``, before anything is started."""

import pytest

from orchestrator import sdk
from orchestrator.errors import TrainwrightError
from orchestrator.spec.job import JobSpec

TEXT = "The quick brown fox jumps over the lazy dog.\n" * 40


def planned(tmp_path, monkeypatch, **sections):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    job = {
        "name": "job",
        "model": {"family": "gpt", "size": "debug"},
        "data": {
            "train": {"kind": "text", "path": "text.txt"},
            "eval": {"kind": "split", "fraction": 0.2, "by": "position"},
            "prepare": {"kind": "pack", "tokenizer": {"kind": "characters"}, "context": 32},
        },
        "training": {"max_steps": 2, "global_batch_size": 4},
        "tracking": {"kind": "none"},
    }
    (tmp_path / "text.txt").touch()
    return sdk.make_plan(JobSpec.model_validate(job | sections), base_dir=tmp_path)


def refused(tmp_path, monkeypatch, **sections):
    with pytest.raises(TrainwrightError) as caught:
        planned(tmp_path, monkeypatch, **sections)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_text_that_fits_is_planned_with_the_data_s_vocabulary(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(TEXT)
    plan = planned(tmp_path, monkeypatch)
    assert plan.job.model.vocabulary == len(set(TEXT)) + 1  # and the end of each row
    tokens = 32 * (len(TEXT) // 40 + 1)  # four fifths of the lines
    assert plan.train_samples == (tokens - 1) // 32


def test_empty_text(tmp_path, monkeypatch):
    assert "holds no text, its files are empty" in refused(tmp_path, monkeypatch)


def test_text_too_short_for_a_block(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text("a\nb\nc\n")
    assert "too short to make one sample" in refused(tmp_path, monkeypatch)


def test_a_vocabulary_larger_than_the_model_s(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(TEXT)
    message = refused(tmp_path, monkeypatch, model={"family": "gpt", "size": "debug", "vocabulary": 9})
    assert "model.vocabulary" in message
    assert "9" in message


def test_sequences_longer_than_the_model_s_context(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(TEXT)
    message = refused(tmp_path, monkeypatch, model={"family": "gpt", "size": "debug", "context": 16})
    assert "model.context" in message
    assert "32" in message


def test_a_class_that_the_model_has_no_output_for(tmp_path, monkeypatch):
    model = {"family": "cnn", "size": "debug", "outputs": 7}
    data = {"train": {"kind": "builtin", "name": "digits"}}
    message = refused(tmp_path, monkeypatch, model=model, data=data)
    assert "model.outputs" in message
    assert "10" in message
