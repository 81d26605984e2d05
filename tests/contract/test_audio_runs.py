"""Sounds through whole runs of the loop: classes of folders, and texts by CTC; and the model that a run leaves."""

import io
import json
import time

import numpy as np
import pyarrow as pa
import pytest

from orchestrator import data, sdk, worker
from orchestrator.checkpoint.export import load_modules
from orchestrator.checkpoint.find import newest_good
from orchestrator.telemetry.trained import Trained

soundfile = pytest.importorskip("soundfile")

RATE = 8000
TONES = {"a": 400, "b": 900, "c": 2000}
MEL = {"kind": "mel", "tensor": "signal", "rate": RATE, "mels": 8, "window": 160, "hop": 80}


def spoken(text, seed):
    """A tone for each letter, with a gap behind each."""
    random = np.random.default_rng(seed)
    step = np.arange(RATE // 20)
    parts = [0.4 * np.sin(2 * np.pi * TONES[one] * step / RATE) for one in text]
    gap = np.zeros(RATE // 50)
    wave = np.concatenate([piece for part in parts for piece in (part, gap)])
    out = io.BytesIO()
    soundfile.write(out, wave + 0.01 * random.standard_normal(len(wave)), RATE, format="FLAC")
    return out.getvalue()


def sounds_of(folder, count=24):
    random = np.random.default_rng(0)
    texts = ["".join(random.choice(list("abc"), random.integers(1, 4))) for _ in range(count)]
    (folder / "set").mkdir()
    lines = ["path,text"]
    for number, text in enumerate(texts):
        (folder / "set" / f"{number}.flac").write_bytes(spoken(text, number))
        lines.append(f"{number}.flac,{text}")
    (folder / "set" / "said.csv").write_text("\n".join(lines) + "\n")
    return {"kind": "audio", "path": str(folder / "set" / "said.csv")}


def run_of(folder, model, steps):
    job = {
        "name": "heard",
        "model": model,
        "objective": {"kind": "ctc"},
        "data": {
            "reader": "worker",
            "train": sounds_of(folder),
            "eval": {"kind": "split", "fraction": 0.25},
            "columns": {"signal": "audio"},
            "transforms": [
                {"kind": "pad", "length": 1800},
                MEL,
                {"kind": "normalize", "tensor": "signal"},
                {"kind": "spell", "length": 4},
            ],
        },
        "training": {
            "max_steps": steps,
            "global_batch_size": 6,
            "log_every": 1,
            "evaluate_every": steps,
            "optimizer": {"kind": "adamw", "learning_rate": 0.02},
        },
        "scaling": {"workers": 1},
        "checkpoint": {"asynchronous": False, "keep": {"last": 1, "best": 1, "metric": "val/cer", "mode": "min"}},
        "tracking": {"kind": "none"},
    }  # fmt: skip
    path = folder / "heard.json"
    path.write_text(json.dumps(job))
    plan = sdk.make_plan(path)
    plan = plan.model_copy(update={"storage": str(folder / "run")})
    prepared = data.prepare(plan)
    given = {"plan": plan.model_dump_json(), "prepared": prepared.model_dump_json()}
    outcome = worker.run({**given, "launch": 1, "started_at": time.time()})
    return plan, prepared, outcome["metrics"]


def test_letters_are_learned_from_tones_and_the_model_writes_what_it_hears(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    plan, prepared, metrics = run_of(tmp_path, {"family": "gru", "bidirectional": True, "width": 24}, 60)
    assert metrics["val/cer"] < 0.2, metrics
    assert metrics["val/wer"] <= 1
    inputs = data.inputs_of(plan.job, prepared)
    modules = load_modules(newest_good(f"{plan.storage}/checkpoints"), plan.job.model, plan.job.objective)
    model = Trained(modules, plan.job.model, plan.job.objective, inputs)
    heard = model.answers(pa.table({"audio": [spoken("ab", 99), spoken("cb", 98)]}))
    assert heard["heard"].tolist() == ["ab", "cb"]
