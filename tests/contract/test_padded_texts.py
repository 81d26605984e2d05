"""Texts that a preparation filled up train and evaluate on what is really there, whatever they were filled up to."""

import json
import time

import pytest

from orchestrator import data, sdk, worker

TEXTS = ("a b c", "c a", "b b a c", "a c b a b", "c", "b a c")
SMALL = {"width": 8, "embedding_width": 8}
CASES = {
    "causal_lm": ({"family": "gpt", "size": "debug"}, {"kind": "causal_lm"}, {"classify": False}),
    "causal_lm-lstm": ({"family": "lstm", **SMALL}, {"kind": "causal_lm"}, {"classify": False}),
    "masked_lm": ({"family": "bert", "size": "debug"}, {"kind": "masked_lm"}, {}),
    "classification-bert": (
        {"family": "bert", "size": "debug"},
        {"kind": "classification"},
        {"label": "kind"},
    ),
    "classification-gru": (
        {"family": "gru", "bidirectional": True, **SMALL},
        {"kind": "classification"},
        {"classify": False, "label": "kind"},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_measures_real_targets_only(tmp_path, monkeypatch, case):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    (tmp_path / "texts.jsonl").write_text(
        "".join(json.dumps({"text": text, "kind": text[0]}) + "\n" for text in TEXTS * 4)
    )
    tight, loose = (metrics_of(tmp_path, *CASES[case], filled_to) for filled_to in (7, 19))
    assert tight and {name.partition("/")[0] for name in tight} == {"train", "val"}
    assert loose == pytest.approx(tight, rel=1e-5)


def metrics_of(folder, model, objective, prepare, filled_to):
    """Of a short run over texts that are filled up to so many tokens, by a model that could take more."""
    job = {
        "name": "texts",
        "model": {**model, "context": 24},
        "objective": objective,
        "data": {
            "reader": "worker",
            "train": {"kind": "jsonl", "path": str(folder / "texts.jsonl")},
            "eval": {"kind": "split", "fraction": 0.25},
            "prepare": {
                "kind": "tokenize",
                "tokenizer": {"kind": "words", "vocabulary": 20},
                "context": filled_to,
                **prepare,
            },
        },
        "training": {"max_steps": 3, "global_batch_size": 6, "log_every": 1, "evaluate_every": 3},
        "scaling": {"workers": 1},
        "checkpoint": {"asynchronous": False},
        "tracking": {"kind": "none"},
    }
    path = folder / f"{filled_to}.json"
    path.write_text(json.dumps(job))
    plan = sdk.make_plan(path)
    plan = plan.model_copy(update={"storage": str(folder / f"run-{filled_to}")})
    prepared = data.prepare(plan)
    outcome = worker.run(
        {
            "plan": plan.model_dump_json(),
            "prepared": prepared.model_dump_json(),
            "launch": 1,
            "started_at": time.time(),
        }
    )
    return {name: value for name, value in outcome["metrics"].items() if not name.startswith("system/")}
