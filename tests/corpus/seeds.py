"""Small valid data of every format, and the jobs that read it."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

ROWS = 24
FEATURES = {"columns": {"features": ["a", "b"]}}


class Seed(NamedTuple):
    """How one kind of data is written, and the job's ``data`` beside its source."""

    kind: str
    write: Callable[[Path], None]
    rest: dict[str, Any]
    family: str = "mlp"
    lines: bool = False
    """Whether it is text of lines, so that lines can be changed."""


def table() -> pa.Table:
    ids = np.arange(ROWS)
    return pa.table(
        {
            "a": ids * 1.5,
            "b": pa.array([None if i == 7 else int(i) for i in ids], pa.int32()),
            "note": [f"row {i}, é" for i in ids],
            "label": ids % 3,
        }
    )


def plain_table() -> pa.Table:
    return table().set_column(1, "b", pa.array(np.arange(ROWS, dtype=np.int32)))


def _csv(folder: Path) -> None:
    rows = [f'{i * 1.5},{i},"row {i}, ""é""",{i % 3}' for i in range(ROWS)]
    (folder / "rows.csv").write_text("a,b,note,label\n" + "\n".join(rows) + "\n")


def _semicolons(folder: Path) -> None:
    rows = [f"{i},5;1.{i % 10}00,25;wörter {i};{i % 3}" for i in range(ROWS)]
    (folder / "rows.csv").write_bytes(("a;b;note;label\r\n" + "\r\n".join(rows)).encode("cp1252"))


def _jsonl(folder: Path) -> None:
    rows = [
        {"a": i * 1.5, "b": i, "note": f"row {i} é", "label": i % 3, "inner": {"x": [i]}} for i in range(ROWS)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _text(folder: Path) -> None:
    (folder / "rows.txt").write_text("".join(f"line {i} with {'é' * (i % 4)}\n" for i in range(ROWS)))


def _parquet(folder: Path) -> None:
    pq.write_table(plain_table(), folder / "rows.parquet", row_group_size=10)


def _checked_parquet(folder: Path) -> None:
    pq.write_table(
        plain_table(),
        folder / "rows.parquet",
        row_group_size=10,
        write_page_checksum=True,
        compression="zstd",
        use_dictionary=False,
    )


def _arrow(folder: Path) -> None:
    with pa.OSFile(str(folder / "rows.arrow"), "wb") as file, pa.ipc.new_file(file, table().schema) as writer:
        for batch in plain_table().to_batches(max_chunksize=10):
            writer.write_batch(batch)


def _hugging_face(folder: Path) -> None:
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, table().schema) as writer,
    ):
        for batch in plain_table().to_batches(max_chunksize=10):
            writer.write_batch(batch)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"}
    (folder / "state.json").write_text(json.dumps(state))


def _numpy(folder: Path) -> None:
    ids = np.arange(ROWS)
    np.save(folder / "features.npy", np.stack([ids * 1.5, ids], axis=1).astype(np.float32))
    np.save(folder / "label.npy", ids % 3)


def picture(number: int, form: str) -> bytes:
    """A color picture of 8 x 8, with a transparent corner where the format has that."""
    pixels = (np.arange(192).reshape(8, 8, 3) * 3 + number * 31).astype(np.uint8)
    image = Image.fromarray(pixels)
    if form == "PNG":
        image.putalpha(200)
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def _webdataset(folder: Path) -> None:
    with tarfile.open(folder / "rows.tar", "w") as tar:
        for i in range(8):
            said = {
                "png": picture(i, "PNG"),
                "cls": b"%d" % (i % 3),
                "json": json.dumps({"x": i}).encode(),
                "txt": f"text {i}".encode(),
            }
            for ending, content in said.items():
                info = tarfile.TarInfo(f"s{i:03d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))


def _folders(form: str, ending: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for i in range(4):
            place = folder / "set" / "ab"[i % 2]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{i}.{ending}").write_bytes(picture(i, form))

    return write


def _image_column(folder: Path) -> None:
    rows = pa.table({"image": [picture(i, "PNG") for i in range(6)], "label": [i % 3 for i in range(6)]})
    pq.write_table(rows, folder / "rows.parquet", row_group_size=4)


PICTURES = {"columns": {"image": "png", "label": "cls"}}
SEEDS: dict[str, Seed] = {
    "csv": Seed("csv", _csv, FEATURES, lines=True),
    "csv-cp1252": Seed("csv", _semicolons, FEATURES, lines=True),
    "jsonl": Seed("jsonl", _jsonl, FEATURES, lines=True),
    "text": Seed(
        "text",
        _text,
        {"prepare": {"kind": "tokenize", "context": 8, "tokenizer": {"kind": "bytes"}}},
        "gpt",
        lines=True,
    ),
    "parquet": Seed("parquet", _parquet, FEATURES),
    "parquet-checked": Seed("parquet", _checked_parquet, FEATURES),
    "arrow": Seed("arrow", _arrow, FEATURES),
    "hugging-face": Seed("arrow", _hugging_face, FEATURES),
    "numpy": Seed("numpy", _numpy, {}),
    "webdataset": Seed("webdataset", _webdataset, PICTURES, "cnn"),
    "png": Seed("images", _folders("PNG", "png"), {}, "cnn"),
    "jpeg": Seed("images", _folders("JPEG", "jpg"), {}, "cnn"),
    "bmp": Seed("images", _folders("BMP", "bmp"), {}, "cnn"),
    "gif": Seed("images", _folders("GIF", "gif"), {}, "cnn"),
    "tiff": Seed("images", _folders("TIFF", "tif"), {}, "cnn"),
    "webp": Seed("images", _folders("WEBP", "webp"), {}, "cnn"),
    "image-column": Seed("images", _image_column, {}, "cnn"),
}
"""Name -> seed."""


def job_data(seed: Seed, folder: Path) -> dict[str, Any]:
    """``data`` of the job for a folder."""
    path = folder / "set" if (folder / "set").exists() else folder
    return {"train": {"kind": seed.kind, "path": str(path)}, "shuffle": False, **seed.rest}
