"""Small data sets of every format, the jobs that read them, and a digest of the batches that a job gets from them.

Their values are exact in binary, so that a digest is the same on every processor.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_jobs import job_of, plan_of
from PIL import Image

from orchestrator import data
from orchestrator.data import Prepared

ROWS, BATCH, STEPS, SEED = 130, 12, 25, 7
"""130 rows are eleven steps of 12 with the tail padded: 25 steps reach into the third epoch."""
NORMALIZE = [{"kind": "normalize", "tensor": "features"}]
COLUMNS = {"features": ["a", "b"]}


def table(first: int, stop: int) -> pa.Table:
    ids = np.arange(first, stop)
    return pa.table({"a": ids % 2 * 4.0, "b": (ids // 2) % 2, "label": ids % 5})


def write_parquet(folder: Path, name: str = "rows") -> dict[str, Any]:
    (folder / name).mkdir(parents=True)
    for number in range(2):
        rows = table(number * 65, number * 65 + 65)
        pq.write_table(rows, folder / name / f"{number}.parquet", row_group_size=10)
    return {"kind": "parquet", "path": str(folder / name)}


def write_csv(folder: Path) -> dict[str, Any]:
    lines = [f'{i % 2 * 4.5},{i % 3},"{"xyz"[i % 3]}, {i % 5}"' for i in range(ROWS)]
    (folder / "rows.csv").write_text("a,b,label\n" + "\n".join(lines) + "\n")
    return {"kind": "csv", "path": str(folder / "rows.csv")}


def write_jsonl(folder: Path) -> dict[str, Any]:
    rows = [json.dumps({"features": [i, i * 0.5, -i], "label": i % 4}) for i in range(ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    return {"kind": "jsonl", "path": str(folder / "rows.jsonl")}


def write_text(folder: Path) -> dict[str, Any]:
    text = "".join(f"row {i} of {'abcdefg'[i % 7] * (i % 11)}\n" for i in range(ROWS * 4))
    (folder / "text.txt").write_text(text)
    return {"kind": "text", "path": str(folder / "text.txt")}


def write_sentences(folder: Path) -> dict[str, Any]:
    rows = [
        json.dumps({"text": f"word{i % 9} and {i} more", "topic": ["sea", "land", "air"][i % 3]})
        for i in range(ROWS)
    ]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    return {"kind": "jsonl", "path": str(folder / "rows.jsonl")}


def pixels(number: int) -> np.ndarray:
    return (np.arange(8 * 8 * 3).reshape(8, 8, 3) * 7 + number * 13).astype(np.uint8)


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels(number)).save(out, "PNG")
    return out.getvalue()


def write_images(folder: Path) -> dict[str, Any]:
    for number in range(ROWS):
        path = folder / "images" / ("cat", "dog", "owl")[number % 3] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return {"kind": "images", "path": str(folder / "images")}


def write_webdataset(folder: Path) -> dict[str, Any]:
    with tarfile.open(folder / "rows.tar", "w") as tar:
        for number in range(ROWS):
            for extension, content in {"png": png(number), "cls": str(number % 4).encode()}.items():
                info = tarfile.TarInfo(f"{number:04d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return {"kind": "webdataset", "path": str(folder / "rows.tar")}


def write_audio(folder: Path) -> dict[str, Any]:
    pytest.importorskip("soundfile")
    for number in range(ROWS):
        path = folder / "sounds" / ("cat", "dog", "owl")[number % 3] / f"{number:03d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((2, 2, 8000, 0, "NONE", ""))
            samples = (np.arange(2 * (20 + number)) * 37 + number * 1000) % 2**15
            file.writeframes(samples.astype("<i2").tobytes())
    return {"kind": "audio", "path": str(folder / "sounds")}


def write_arrow(folder: Path) -> dict[str, Any]:
    rows = table(0, ROWS)
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as out, pa.ipc.new_file(out, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=20)
    return {"kind": "arrow", "path": str(folder / "rows.arrow")}


def write_numpy(folder: Path) -> dict[str, Any]:
    (folder / "arrays").mkdir()
    np.save(folder / "arrays" / "features.npy", np.arange(ROWS * 6, dtype=np.int16).reshape(ROWS, 6))
    np.save(folder / "arrays" / "label.npy", np.arange(ROWS) % 3)
    return {"kind": "numpy", "path": str(folder / "arrays")}


def write_series(folder: Path) -> dict[str, Any]:
    ids = np.arange(ROWS * 2)
    values = pa.table({"x": ids % 2 * 4.0, "y": ids % 4 // 2 * 2, "shop": ids % 3})
    pq.write_table(values, folder / "series.parquet", row_group_size=37)
    return {"kind": "parquet", "path": str(folder / "series.parquet")}


def write_mix(folder: Path) -> list[dict[str, Any]]:
    return [{**write_parquet(folder), "weight": 2}, write_parquet(folder, "other")]


def digits(folder: Path) -> dict[str, Any]:
    return {"kind": "builtin", "name": "digits"}


AUGMENT = [
    {"kind": "random_crop", "tensor": "image", "padding": 2},
    {"kind": "random_flip", "tensor": "image"},
]
SPLIT = {"kind": "split", "fraction": 0.2}

CASES: dict[str, tuple[Callable[[Path], Any], str, dict[str, Any]]] = {
    "parquet": (write_parquet, "mlp", {"columns": COLUMNS, "transforms": NORMALIZE, "eval": SPLIT}),
    "csv": (
        write_csv,
        "mlp",
        {"columns": COLUMNS, "transforms": [{"kind": "encode", "tensor": "label"}], "eval": SPLIT},
    ),
    "jsonl": (write_jsonl, "mlp", {"eval": {**SPLIT, "by": "position"}, "tail": "drop"}),
    "pack": (
        write_text,
        "gpt",
        {
            "prepare": {"kind": "pack", "tokenizer": {"kind": "characters"}, "context": 16, "document": True},
            "eval": None,
        },
    ),
    "tokenize": (
        write_sentences,
        "bert",
        {
            "prepare": {
                "kind": "tokenize",
                "tokenizer": {"kind": "bytes"},
                "context": 24,
                "word": True,
                "label": "topic",
            },
            "eval": SPLIT,
        },
    ),
    "images": (write_images, "cnn", {"transforms": AUGMENT, "eval": SPLIT, "skip_bad_samples": 2}),
    "webdataset": (
        write_webdataset,
        "cnn",
        {"columns": {"image": "png", "label": "cls"}, "transforms": AUGMENT},
    ),
    "audio": (
        write_audio,
        "gru",
        {
            "columns": {"signal": "audio"},
            "transforms": [
                {"kind": "pad", "tensor": "signal", "length": 150},
                {"kind": "crop", "tensor": "signal", "length": 40},
            ],
            "eval": SPLIT,
        },
    ),
    "arrow": (write_arrow, "mlp", {"columns": COLUMNS, "shuffle": False}),
    "numpy": (write_numpy, "mlp", {"eval": SPLIT}),
    "windows": (
        write_series,
        "lstm",
        {
            "prepare": {"kind": "windows", "past": 8, "horizon": 2, "group": "shop"},
            "eval": {**SPLIT, "by": "position"},
        },
    ),
    "mix": (write_mix, "mlp", {"columns": COLUMNS}),
    "builtin": (
        digits,
        "cnn",
        {"transforms": [{"kind": "scale", "tensor": "image", "factor": 0.125, "offset": -1.0}]},
    ),
}
"""Name -> what writes the source, the family that reads it, and the rest of ``data``."""


GOLDEN = {
    "parquet": "c9ec20cee869db93",
    "csv": "4fcfe82880bcc4cc",
    "jsonl": "117a961528fe686f",
    "pack": "2add3b6ae0ef0159",
    "tokenize": "46c2641c8592f9a5",
    "images": "41eff84f5659185c",
    "webdataset": "361f1d4d665d1438",
    "audio": "b2cd4a4f7e98f089",
    "arrow": "1c96f1b9ed30840a",
    "numpy": "82eb273fedc8eff1",
    "windows": "32eb6b7875ffa245",
    "mix": "88d6750a51a17e24",
    "builtin": "af079b6ce3a86726",
}
"""Name -> the digest of its batches. One changes only where a change of the data's meaning is wanted, and said."""


def case_data(name: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """The family, and ``data`` of the job, with its source written."""
    folder.mkdir(parents=True, exist_ok=True)
    write, family, rest = CASES[name]
    return family, {"train": write(folder), **{key: value for key, value in rest.items() if value}}


def sections_beside(family: str, spec: dict[str, Any]) -> dict[str, Any]:
    """What a job says beside its data, so that the family takes that."""
    if family == "gru":
        return {"objective": {"kind": "classification"}, "model": {"family": "gru", "inputs": "signal"}}
    if family == "lstm":
        return {"objective": {"kind": "forecasting"}}
    if family == "bert" and spec["prepare"].get("label"):
        return {"objective": {"kind": "classification"}}
    return {}


def batches_digest(
    family: str, spec: dict[str, Any], folder: Path, *, workers: int = 1, start_step: int = 0
) -> str:
    """SHA-256 of every array of the global batches from a step on, and of one evaluation."""
    job = job_of(spec, batch=BATCH, family=family, seed=SEED, **sections_beside(family, spec))
    plan = plan_of(job, folder, workers=workers, steps=STEPS, micro=3)
    prepared = Prepared.model_validate_json(data.prepare(plan).model_dump_json())
    digest = hashlib.sha256()
    streams = [
        data.open_train(prepared, plan, rank=rank, world_size=workers, start_step=start_step)
        for rank in range(workers)
    ]
    for _ in range(start_step, STEPS):
        steps = [next(stream) for stream in streams]
        _add(digest, [micro for step in steps for micro in step.micros])
        digest.update(repr((steps[0].samples, steps[0].padded, steps[0].epoch, steps[0].tokens)).encode())
    for stream in streams:
        stream.close()
    if prepared.evaluation is not None:
        for batch in data.open_eval(prepared, plan, rank=0, world_size=1).batches():
            _add(digest, [batch])
    digest.update(json.dumps([prepared.dims, prepared.lists, prepared.classes]).encode())
    return digest.hexdigest()[:16]


def _add(digest: Any, micros: list[dict[str, np.ndarray]]) -> None:
    for name in sorted(micros[0]):
        values = np.concatenate([micro[name] for micro in micros])
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
