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
from orchestrator.data.sources.formats import format_of
from orchestrator.data.sources.split import Selection
from orchestrator.telemetry import reporter
from orchestrator.telemetry.tracking import NullTracker
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


class Shown(NullTracker):
    """Keeps the files that show samples."""

    def __init__(self):
        self.files = {}

    def file(self, step, name, content):
        self.files[name] = content


@pytest.fixture
def shown(monkeypatch):
    tracker = Shown()
    monkeypatch.setattr(reporter, "open_tracker", lambda *_, **__: tracker)
    return tracker.files


def run_of(folder, model, steps, **more):
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
    } | more  # fmt: skip
    path = folder / "heard.json"
    path.write_text(json.dumps(job))
    plan = sdk.make_plan(path)
    plan = plan.model_copy(update={"storage": str(folder / "run")})
    prepared = data.prepare(plan)
    given = {"plan": plan.model_dump_json(), "prepared": prepared.model_dump_json()}
    outcome = worker.run({**given, "launch": 1, "started_at": time.time()})
    return plan, prepared, outcome["metrics"]


def test_letters_are_learned_from_tones_and_the_model_writes_what_it_hears(tmp_path, monkeypatch, shown):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    plan, prepared, metrics = run_of(tmp_path, {"family": "gru", "bidirectional": True, "width": 24}, 60)
    assert metrics["val/cer"] < 0.2, metrics
    assert metrics["val/wer"] <= 1
    inputs = data.inputs_of(plan.job, prepared)
    modules = load_modules(newest_good(f"{plan.storage}/checkpoints"), plan.job.model, plan.job.objective)
    model = Trained(modules, plan.job.model, plan.job.objective, inputs)
    heard = model.answers(pa.table({"audio": [spoken("ab", 99), spoken("cb", 98)]}))
    assert heard["heard"].tolist() == ["ab", "cb"]
    held_out = evaluation_sounds(prepared)[:4]
    assert [name for name in shown if name.startswith("samples/sounds")] == [
        f"samples/sounds/{number}.wav" for number in range(4)
    ]
    for number, (original, said) in enumerate(held_out):
        played, rate = soundfile.read(io.BytesIO(shown[f"samples/sounds/{number}.wav"]), dtype="int16")
        assert rate == RATE
        np.testing.assert_array_equal(played, soundfile.read(io.BytesIO(original), dtype="int16")[0])
        assert f"<h2>{number} said</h2><pre>{said}</pre>" in shown["samples/step-00000060.html"].decode()


def evaluation_sounds(prepared):
    """Bytes and text of each held-out sound, in the evaluation's order."""
    source = prepared.evaluation
    reader, index = Selection(source.part, source.index.group_rows), source.index
    found = []
    for group in range(len(index.group_rows)):
        table = format_of(index.kind).read(index, group, ("audio", "text"))
        rows = reader.rows(group)
        found += table.take(pa.array(rows)).to_pylist()
    return [(row["audio"], row["text"]) for row in found]


def test_of_classes_one_hears_the_sounds_beside_what_they_are_taken_for(tmp_path, monkeypatch, shown):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    for number, text in enumerate("abcabcabcabc"):
        place = tmp_path / "tones" / text / f"{number}.flac"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(spoken(text * 3, number))
    (tmp_path / "tones" / "a" / "3.flac").write_bytes(b"")
    split = {"kind": "audio", "path": str(tmp_path / "tones")}
    data_spec = {
        "reader": "worker", "train": split, "eval": split, "columns": {"signal": "audio", "label": "label"},
        "transforms": [{"kind": "pad", "length": 1800}, MEL], "skip_bad_samples": 1,
    }  # fmt: skip
    job = {"objective": {"kind": "classification"}, "data": data_spec}
    run_of(
        tmp_path,
        {"family": "gru", "inputs": "signal", "width": 8},
        2,
        **job,
        checkpoint={"asynchronous": False},
    )
    page = shown["samples/step-00000002.html"].decode()
    assert "<h2>0 is</h2><pre>a</pre>" in page and "<h2>0 taken for</h2>" in page
    assert "<h2>1 is</h2>" not in page, "it can't be read"
    assert sorted(name for name in shown if name.endswith("wav")) == [
        f"samples/sounds/{n}.wav" for n in (0, 2, 3)
    ]
