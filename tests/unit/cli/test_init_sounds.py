"""``init --data`` of manifests: tables that say of each sound what it is, given by themselves or in a folder with the sounds."""

import csv
import json
import time
import wave
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator import data, sdk, worker

pytest.importorskip("soundfile")

WORDS = ("left", "right", "stop", "go on")


@pytest.fixture
def init(init):
    """Writes over what the call before has written."""
    return partial(init, "--force")


def sounds(folder, count=40):
    """Tones, of two lengths; their names from the folder."""
    (folder / "clips").mkdir(parents=True)
    for number in range(count):
        tone = np.sin(np.arange(3200 + 800 * (number % 2)) * (0.1 + 0.2 * (number % 4)))
        with wave.open(str(folder / f"clips/{number}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((tone * 9000).astype("<i2").tobytes())
    return [f"clips/{number}.wav" for number in range(count)]


def manifest(path, columns):
    """A table of these columns, as its ending says."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix in (".jsonl", ".json"):
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(columns), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)


def words(names):
    return [WORDS[number % 4] for number in range(len(names))]


def kinds(plan):
    return [one.kind for one in plan.job.data.transforms]


def trained(steps):
    """What the written job's loop says after some steps, on one worker."""
    alone = ["scaling.workers=1", "tracking.kind=none", "data.reader=worker", "training.epochs=null"]
    short = [f"training.max_steps={steps}", "training.schedule.warmup_steps=0"]
    plan = sdk.make_plan("job.yaml", overrides=[*alone, *short])
    told = {
        "plan": plan.model_dump_json(),
        "prepared": data.prepare(plan).model_dump_json(),
        "launch": 1,
        "started_at": time.time(),
    }
    return worker.run(told)


def test_texts_of_sounds_are_written_and_the_job_trains(init, tmp_path):
    names = sounds(tmp_path / "set")
    manifest(tmp_path / "set/said.csv", {"path": names, "text": words(names)})
    plan, text = init("--data", "set/said.csv")
    assert (plan.job.model.family, plan.job.objective.kind) == ("gru", "ctc")
    assert (plan.job.data.train.kind, plan.job.data.train.path) == ("audio", "set/said.csv")
    assert plan.job.data.columns == {"signal": "audio", "text": "text"}
    assert kinds(plan) == ["pad", "mel", "normalize", "spec_augment", "spell"]
    assert plan.job.data.transforms[0].length == 4000 and plan.job.data.transforms[0].longer == "error"
    assert plan.job.model.outputs == 1 + len(set("".join(WORDS)))
    assert "to write: text (its name says so)" in text and "whose column path names the sound" in text
    assert trained(2)["step"] == 2


@pytest.mark.parametrize(
    ("ending", "column"), [(".parquet", "path"), (".tsv", "file_name"), (".jsonl", "audio_filepath")]
)
def test_a_label_makes_classes_whatever_the_manifest_is_written_in(init, tmp_path, ending, column):
    names = sounds(tmp_path / "set")
    manifest(tmp_path / f"set/all{ending}", {column: names, "seconds": [0.5] * 40, "label": words(names)})
    plan, text = init("--data", f"set/all{ending}")
    assert (plan.job.model.family, plan.job.objective.kind) == ("gru", "classification")
    assert (plan.job.data.train.kind, plan.job.model.outputs) == ("audio", 4)
    assert kinds(plan) == ["encode", "pad", "mel", "normalize", "spec_augment"]
    assert "to predict: label (its name says so); 4 classes" in text and "left out: seconds" in text


def test_a_manifest_beside_its_sounds_is_found_in_their_folder(init, tmp_path):
    names = sounds(tmp_path / "set")
    manifest(tmp_path / "set/metadata.csv", {"file_name": names, "transcription": words(names)})
    manifest(tmp_path / "set/speakers.csv", {"name": ["ann", "bob"], "age": [30, 40]})
    plan, _ = init("--data", "set")
    assert (plan.job.data.train.path, plan.job.objective.kind) == ("set/metadata.csv", "ctc")
    assert plan.job.data.eval.kind == "split"


def test_folders_of_classes_stay_classes_beside_tables_that_are_no_manifests(init, tmp_path):
    for name in ("owl", "wren"):
        sounds(tmp_path / "rest" / name, 10)
        (tmp_path / "birds").mkdir(exist_ok=True)
        (tmp_path / "rest" / name / "clips").rename(tmp_path / "birds" / name)
    (tmp_path / "birds/notes.csv").write_text("")
    manifest(tmp_path / "birds/index.csv", {"file": ["owl/0.wav", "wren/0.wav"], "seconds": [1, 2]})
    plan, text = init("--data", "birds")
    assert plan.job.data.train.path == "birds" and "20 sounds in 2 folders" in text


def test_manifests_and_folders_named_as_parts_are_trained_and_evaluated_on(init, tmp_path):
    names = sounds(tmp_path / "set")
    manifest(tmp_path / "set/dev.csv", {"path": names[:8], "text": words(names[:8])})
    manifest(tmp_path / "set/my-train.csv", {"path": names[8:], "text": words(names[8:])})
    plan, text = init("--data", "set")
    assert (plan.job.data.train.path, plan.job.data.eval.path) == ("set/my-train.csv", "set/dev.csv")
    assert plan.job.data.eval.kind == "audio" and "dev.csv is evaluated on" in text
    for part in ("train", "test"):
        names = sounds(tmp_path / "parts" / part, 12)
        manifest(tmp_path / "parts" / part / "metadata.jsonl", {"file_name": names, "text": words(names)})
    plan, _ = init("--data", "parts")
    assert plan.job.data.train.path == "parts/train/metadata.jsonl"
    assert plan.job.data.eval.path == "parts/test/metadata.jsonl"
    (tmp_path / "parts/test/metadata.jsonl").unlink()
    plan, text = init("--data", "parts")
    assert plan.job.data.eval.kind == "split" and "evaluated on" not in text


def test_of_several_manifests_one_has_to_be_given(init, tmp_path):
    names = sounds(tmp_path / "set")
    for name in ("a", "b"):
        manifest(tmp_path / f"set/{name}.csv", {"path": names, "text": words(names)})
    said = init("--data", "set", code=3)
    assert "several manifests of sounds (a.csv, b.csv), none named train; give one: --data set/a.csv" in said


def test_which_column_is_learned(init, tmp_path):
    names = sounds(tmp_path / "set")
    columns = {
        "path": names,
        "speaker": [f"s{number // 5}" for number in range(40)],
        "phrase": [f"please go to the place number {number} now" for number in range(40)],
        "accent": [("us", "gb")[number % 2] for number in range(40)],
    }
    manifest(tmp_path / "set/all.csv", columns)
    plan, text = init("--data", "set")
    assert plan.job.objective.kind == "ctc" and "to write: phrase (it holds sentences)" in text
    assert plan.job.data.eval.group == "speaker" and "speakers that no training sound has" in text
    plan, text = init("--data", "set", "--label", "accent")
    assert (plan.job.objective.kind, plan.job.data.columns["label"]) == ("classification", "accent")
    assert "--label q: no such column" in init("--data", "set", "--label", "q", code=2)
    manifest(tmp_path / "set/all.csv", {**columns, "emotion_label": words(names)})
    plan, _ = init("--data", "set")
    assert plan.job.data.columns["label"] == "emotion_label"
    manifest(tmp_path / "set/all.csv", {"path": names, "seconds": [number / 7 for number in range(40)]})
    assert "no column says what is said in the sounds or of which class they are" in init(
        "--data", "set", code=3
    )
    plan, _ = init("--data", "set", "--label", "seconds")
    assert plan.job.objective.kind == "regression"


def test_rows_without_a_text_and_characters_that_few_texts_have(init, tmp_path):
    names = sounds(tmp_path / "set")
    texts = ["", "déjà", *words(names)[2:]]
    manifest(tmp_path / "set/all.csv", {"path": names, "text": texts})
    plan, text = init("--data", "set")
    assert kinds(plan)[0] == "drop" and plan.job.data.skip_bad_samples == 10
    assert "some characters are in few texts" in text


def test_a_manifest_whose_sounds_are_missing_is_one_sentence_with_its_row(init, tmp_path):
    names = sounds(tmp_path / "set")
    manifest(tmp_path / "set/all.csv", {"path": [*names[:3], "clips/away.wav"], "label": ["a", "b"] * 2})
    for path in ("set", "set/all.csv"):
        said = init("--data", path, code=3)
        assert "all.csv, row 3: there is no sound 'clips/away.wav' in " in said and said.count("\n") == 1
    (tmp_path / "alone").mkdir()
    manifest(tmp_path / "alone/all.csv", {"path": ["x.mp3", "y.mp3"], "label": ["a", "b"]})
    assert "all.csv, row 0: there is no sound 'x.mp3'" in init("--data", "alone/all.csv", code=3)
    assert not (tmp_path / "job.yaml").exists()


def test_a_column_of_sounds_by_another_name(init, tmp_path):
    names = sounds(tmp_path / "set")
    manifest(tmp_path / "set/all.csv", {"wav": names, "label": words(names)})
    assert "its column 'wav' names sounds; call it 'path'" in init("--data", "set/all.csv", code=3)
    features = {
        "wav": [f"{number}.wav" for number in range(40)],
        "x": list(range(1, 80, 2)),
        "label": words(names),
    }
    manifest(tmp_path / "features.csv", features)
    plan, _ = init("--data", "features.csv")
    assert plan.job.model.family == "mlp", "features of sounds that lie elsewhere are a table"


@pytest.mark.parametrize("embedded", ["bytes", "struct"])
def test_sounds_within_a_table_are_heard(init, tmp_path, embedded):
    names = sounds(tmp_path / "set")
    encoded = [(tmp_path / "set" / name).read_bytes() for name in names]
    encoded[5] = b"nothing"
    spoken = encoded if embedded == "bytes" else [{"bytes": one, "path": "x.wav"} for one in encoded]
    # Hugging Face writes both: the sound, and the name that it once had
    manifest(tmp_path / "all.parquet", {"wav": spoken, "file_name": names, "label": words(names)})
    plan, text = init("--data", "all.parquet")
    assert (plan.job.model.family, plan.job.objective.kind) == ("gru", "classification")
    assert (plan.job.data.train.kind, plan.job.model.outputs) == ("parquet", 4)
    assert plan.job.data.columns == {"signal": "wav", "label": "label"}
    assert plan.job.data.skip_bad_samples == 20 and "1 sounds can't be read" in text
    assert kinds(plan) == ["encode", "pad", "mel", "normalize", "spec_augment"]
    manifest(tmp_path / "said.parquet", {"wav": spoken, "said": words(names), "speaker": list(range(8)) * 5})
    plan, text = init("--data", "said.parquet")
    assert (plan.job.objective.kind, plan.job.data.eval.group) == ("ctc", "speaker")
    assert "to write: said (its name says so)" in text and "sounds: wav" in text
    assert trained(2)["step"] == 2
    manifest(tmp_path / "bare.parquet", {"wav": spoken})
    assert "no column says what is said in the sounds" in init("--data", "bare.parquet", code=3)
