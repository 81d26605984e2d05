"""What a plan knows of sounds that are too many to be prepared for it: as much as their manifest says, to the same numbers."""

import io

import numpy as np
import pytest

from orchestrator import data
from orchestrator.data import inspect_data
from orchestrator.data.columns import encoded
from orchestrator.errors import DataError
from orchestrator.spec.job import JobSpec

soundfile = pytest.importorskip("soundfile")

MEL = {"kind": "mel", "tensor": "signal", "rate": 8000, "mels": 8, "window": 160, "hop": 80}
TEXTS = ["owl", "wren", "owls", "a wren", "an owl", "new", "wan", "lawn", "rows", "x"]


def manifest(folder, rows=40):
    """A sound of 0.1 seconds for each row; the rare x is in few texts."""
    out = io.BytesIO()
    soundfile.write(out, np.sin(np.arange(800) / 9), 8000, format="FLAC")
    lines = ["path,text,bird,count,speaker"]
    for number in range(rows):
        (folder / f"{number}.flac").write_bytes(out.getvalue())
        text = TEXTS[-1] if number in (7, 21) else TEXTS[number % 9]
        lines.append(f"{number}.flac,{text},{('owl', 'wren', 'kite')[number % 3]},{number % 4},{number % 5}")
    (folder / "said.csv").write_text("\n".join(lines) + "\n")
    return {"kind": "audio", "path": str(folder / "said.csv")}


def job_of(train, objective, columns, transforms, evaluation):
    return JobSpec.model_validate(
        {
            "name": "heard",
            "model": {"family": "gru", "inputs": "signal"},
            "objective": {"kind": objective},
            "data": {
                "train": train,
                "eval": evaluation,
                "columns": {"signal": "audio", **columns},
                "transforms": [{"kind": "pad", "length": 900}, MEL, *transforms],
            },
            "training": {"max_steps": 2, "global_batch_size": 4},
        }
    )


SPLIT = {"kind": "split", "fraction": 0.25}
JOBS = {
    "texts": ("ctc", {}, [{"kind": "normalize", "tensor": "signal"}, {"kind": "spell"}]),
    "names": ("classification", {"label": "bird"}, [{"kind": "encode", "tensor": "label"}]),
    "numbers": ("classification", {"label": "count"}, [{"kind": "normalize", "tensor": "signal"}]),
}


@pytest.mark.parametrize("evaluation", [SPLIT, {**SPLIT, "group": "speaker"}, None])
@pytest.mark.parametrize("kind", JOBS)
def test_a_large_manifest_tells_a_plan_what_its_sounds_would(kind, evaluation, tmp_path, monkeypatch):
    objective, columns, transforms = JOBS[kind]
    job = job_of(manifest(tmp_path), objective, columns, transforms, evaluation)
    whole = data.inspect(job, str(tmp_path), str(tmp_path / "cache"))
    monkeypatch.setattr(
        inspect_data, "SMALL_BYTES", 10_000
    )  # more than the manifest has, less than the sounds
    monkeypatch.setitem(encoded.DECODERS, "audio", lambda *_: pytest.fail("read a sound"))
    told = data.inspect(job, str(tmp_path), str(tmp_path / "other cache"))
    assert (told.dims, told.lists) == (whole.dims, whole.lists)
    assert told.dims["outputs"] > 2
    if kind != "names":  # what an encoded label becomes is not said of large tables either
        assert told.tensors.items() <= whole.tensors.items()
        assert whole.tensors.keys() - told.tensors.keys() == {"sample_id", "sample_seed", "weight"}


def test_a_row_without_its_text_is_named_before_any_sound_is_read(tmp_path, monkeypatch):
    train = manifest(tmp_path)
    said = (tmp_path / "said.csv").read_text().replace("5.flac,new", "5.flac,", 1)
    (tmp_path / "said.csv").write_text(said)
    monkeypatch.setattr(inspect_data, "SMALL_BYTES", 10_000)
    job = job_of(train, "ctc", {}, [{"kind": "spell"}], None)
    with pytest.raises(DataError, match=r"5\.flac .*row 5.*text"):
        data.inspect(job, str(tmp_path), str(tmp_path / "cache"))
    more = {"data": job.data.model_copy(update={"skip_bad_samples": 1})}
    told = data.inspect(job.model_copy(update=more), str(tmp_path), str(tmp_path / "cache"))
    assert told.dims["outputs"] == 1 + len(set("".join(TEXTS)))
