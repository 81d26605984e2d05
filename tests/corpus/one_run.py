"""Prepares and reads what one folder holds, and compares it with what pandas, pyarrow, numpy and Pillow read.

A process of its own that goes on: reads a line of JSON for each run from its input and answers with one.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
import tarfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from data_jobs import job_of, plan_of
from PIL import Image, ImageOps

from orchestrator import data
from orchestrator.data import prepare_data
from orchestrator.data.sources.formats import format_of
from orchestrator.data.sources.formats.dialect import Dialect
from orchestrator.data.sources.index import SourceIndex
from orchestrator.errors import TrainwrightError

MEMORY = 12 * 2**30


class CannotTell(Exception):
    """The peer does not read this, so there is nothing to compare with."""


def answer(run: dict[str, Any]) -> dict[str, str]:
    """``right``, ``refused``, ``alone`` (read, but not by the peer), or what is wrong: ``wrong``, ``traceback``."""
    try:
        return _read(run)
    except TrainwrightError as error:
        said = str(error)
        if not said.strip() or "Traceback" in said or len(said) > 2500:
            return {"outcome": "wrong", "why": f"an error of no use: {said[:300]!r}"}
        return {"outcome": "refused", "why": said}
    except CannotTell as reason:
        return {"outcome": "alone", "why": str(reason)[:300]}
    except AssertionError as difference:
        return {"outcome": "wrong", "why": str(difference)[:1500]}
    except BaseException:
        return {"outcome": "traceback", "why": traceback.format_exc()[-3000:]}


def _read(run: dict[str, Any]) -> dict[str, str]:
    folder = Path(run["folder"])
    more = {"objective": {"kind": "regression"}} if run.get("regression") else {}
    job = job_of(run["data"], family=run["family"], batch=4, **more)
    plan = plan_of(job, folder.parent / "cache-of-it", steps=2)
    prepared = data.Prepared.model_validate_json(data.prepare(plan).model_dump_json())
    index = prepare_data._index(job.data.train, str(folder), plan.cache)  # as it is found, before preparing
    rows = _all_rows(index)
    difference: Callable[..., None] = PEERS[index.kind]
    if run["family"] != "gpt":
        batches = list(_epoch(prepared, plan))
        tensors = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    else:
        tensors = {}
        next(data.open_train(prepared, plan, rank=0, world_size=1, start_step=0))
    difference(rows, index, tensors)
    if "features" in tensors and index.kind not in ("numpy",):
        _same_features(tensors["features"], rows)
    return {"outcome": "right", "why": ""}


def _all_rows(index: SourceIndex) -> pa.Table:
    reader = format_of(index.kind)
    names = index.schema.names
    known = [name for name in names if names.count(name) == 1]
    if index.kind == "images" and index.classes:
        known = ["label"]
    groups = np.flatnonzero(index.group_rows).tolist()
    parts = [reader.read(index, group, known) for group in groups]
    return pa.concat_tables(parts, promote_options="permissive")


def _epoch(prepared: data.Prepared, plan: Any) -> Any:
    longer = plan.model_copy(update={"total_steps": prepared.steps_per_epoch})
    stream = data.open_train(prepared, longer, rank=0, world_size=1, start_step=0)
    try:
        for _ in range(prepared.steps_per_epoch):
            for micro in next(stream).micros:
                kept = micro["sample_id"] >= 0
                yield {name: values[kept] for name, values in micro.items()}
    finally:
        stream.close()


def _same_features(features: np.ndarray, rows: pa.Table) -> None:
    if features.shape[1] != 2:  # a column of lists
        return
    for place, name in enumerate(("a", "b")):
        column = rows.column(name)
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            given = column.to_pandas().to_numpy(dtype=np.float64, na_value=np.nan).astype(np.float32)
            np.testing.assert_array_equal(features[:, place], given, err_msg=f"features of {name}")


def _csv(rows: pa.Table, index: SourceIndex, tensors: Any) -> None:
    dialect = Dialect.model_validate_json(index.options["dialect"])
    frames = []
    for file in index.files:
        text = Path(file.path).read_bytes()
        try:
            frames.append(
                pd.read_csv(
                    io.StringIO(text.decode(dialect.encoding).removeprefix("\ufeff"), newline=""),
                    sep=dialect.separator,
                    dtype=str,
                    keep_default_na=False,
                    index_col=False,
                )
            )
        except Exception as error:
            raise CannotTell(f"pandas: {error}") from None
    theirs = pd.concat(frames)
    assert len(theirs) == rows.num_rows, f"{rows.num_rows} rows, pandas has {len(theirs)}"
    for place, name in enumerate(index.schema.names):
        ours, given = rows.column(name).to_pylist(), theirs.iloc[:, place].tolist()
        for row, (one, text) in enumerate(zip(ours, given, strict=True)):
            _same_cell(one, text, dialect, f"row {row}, column {name!r}")


def _same_cell(one: Any, text: str, dialect: Dialect, where: str) -> None:
    if one is None:
        assert text.strip() in ("", *dialect.null_values), f"{where}: nothing, pandas has {text!r}"
    elif isinstance(one, bool):
        assert text.strip().lower() in (("true", "1") if one else ("false", "0")), f"{where}: {one}, {text!r}"
    elif isinstance(one, int | float):
        plain = text.strip().replace(dialect.thousands or "\0", "").replace(dialect.decimal, ".")
        if isinstance(one, int):
            assert int(plain) == one, f"{where}: {one}, pandas has {text!r}"
        else:
            same = float(plain)
            assert same == one or (same != same and one != one), f"{where}: {one}, pandas has {text!r}"
    elif isinstance(one, str):
        assert one == text, f"{where}: {one!r}, pandas has {text!r}"


def _jsonl(rows: pa.Table, index: SourceIndex, tensors: Any) -> None:
    theirs = []
    for file in index.files:
        content = Path(file.path).read_bytes().removeprefix(b"\xef\xbb\xbf")
        try:
            lines = [line for line in content.replace(b"\r", b"\n").split(b"\n") if line.strip()]
            theirs += [json.loads(line.decode("utf-8")) for line in lines]
        except ValueError as error:
            raise CannotTell(f"json: {error}") from None
    assert len(theirs) == rows.num_rows, f"{rows.num_rows} rows, json has {len(theirs)}"
    for row, (one, other) in enumerate(zip(rows.to_pylist(), theirs, strict=True)):
        for name, value in one.items():
            given = other.get(name)
            if isinstance(value, float) and isinstance(given, int):
                given = float(given)
            if isinstance(value, dict) or str(rows.schema.field(name).type).startswith(("timestamp", "date")):
                continue
            assert value == given or value != value, f"row {row}, {name}: {value!r}, json has {given!r}"


def _text(rows: pa.Table, index: SourceIndex, tensors: Any) -> None:
    theirs = b"".join(Path(file.path).read_bytes() for file in index.files)
    assert "".join(rows.column("text").to_pylist()).encode() == theirs, "text differs"


def _tables(read: Callable[[str], pa.Table]) -> Callable[..., None]:
    def difference(rows: pa.Table, index: SourceIndex, tensors: Any) -> None:
        try:
            theirs = pa.concat_tables([read(file.path) for file in index.files], promote_options="permissive")
        except Exception as error:
            raise CannotTell(f"pyarrow: {error}") from None
        assert theirs.num_rows == rows.num_rows, f"{rows.num_rows} rows, pyarrow has {theirs.num_rows}"
        for name in rows.column_names:
            ours, given = rows.column(name), theirs.column(name)
            if isinstance(given.type, pa.BaseExtensionType):
                continue
            if ours.type == given.type and ours.equals(given):
                continue  # but for a NaN, which equals nothing
            assert str(ours.to_pylist()) == str(given.to_pylist()), f"column {name!r} differs"

    return difference


def _ipc(path: str) -> pa.Table:
    with pa.memory_map(path) as file:
        if file.read(6) == b"ARROW1":
            return pa.ipc.open_file(file).read_all()
        file.seek(0)
        return pa.ipc.open_stream(file).read_all()


def _numpy(rows: pa.Table, index: SourceIndex, tensors: Any) -> None:
    for column, name in index.options.items():
        try:
            theirs = np.load(f"{index.files[0].path}/{name}", allow_pickle=False)
        except Exception as error:
            raise CannotTell(f"numpy: {error}") from None
        ours = rows.column(column).combine_chunks()
        ours = ours.to_numpy_ndarray() if hasattr(ours, "to_numpy_ndarray") else np.array(ours.to_pylist())
        np.testing.assert_array_equal(ours.reshape(theirs.shape), theirs, err_msg=column)


def pixels(encoded: bytes, channels: int) -> np.ndarray:
    """As Pillow reads an image, upright, on white, in 0..1."""
    try:
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded)))
        if image.mode.startswith(("I", "F")):
            raise CannotTell("depth is told by the data set")
        if image.has_transparency_data:
            over = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
        values = np.asarray(image.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
    except CannotTell:
        raise
    except Exception as error:
        raise CannotTell(f"Pillow: {error}") from None
    return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)


def _same_pixels(tensors: Any, encoded: list[bytes]) -> None:
    images = tensors["image"]
    assert len(images) == len(encoded), f"{len(images)} images, {len(encoded)} files"
    for row, (ours, one) in enumerate(zip(images, encoded, strict=True)):
        theirs = pixels(one, ours.shape[0])
        assert ours.shape == theirs.shape, f"image {row}: {ours.shape}, Pillow has {theirs.shape}"
        np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=f"image {row}")


def _images(rows: pa.Table, index: SourceIndex, tensors: Any) -> None:
    if not index.classes:
        column = pa.concat_tables([pq.read_table(file.path, columns=["image"]) for file in index.files])[
            "image"
        ]
        _same_pixels(tensors, column.to_pylist())
        return
    listed = pq.read_table(index.files[0].path)["path"].to_pylist()
    _same_pixels(tensors, [Path(path).read_bytes() for path in listed])
    folders = [Path(path).parent.name for path in listed]
    assert [index.classes[label] for label in rows["label"].to_pylist()] == folders, "classes differ"


def _webdataset(rows: pa.Table, index: SourceIndex, tensors: Any) -> None:
    samples: list[dict[str, bytes]] = []
    key = None
    for file in index.files:
        try:
            with tarfile.open(file.path) as tar:
                for member in tar:
                    if not member.isfile() or "/._" in f"/{member.name}":
                        continue
                    stem, _, ending = member.name.rpartition("/")[2].partition(".")
                    stem = member.name.rpartition("/")[0] + "/" + stem
                    if stem != key:
                        samples.append({})
                        key = stem
                    opened = tar.extractfile(member)
                    assert opened is not None
                    samples[-1][ending.lower()] = opened.read()
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise CannotTell(f"tarfile: {error}") from None
    assert len(samples) == rows.num_rows, f"{rows.num_rows} samples, tarfile has {len(samples)}"
    for row, sample in zip(rows.to_pylist(), samples, strict=True):
        assert row["cls"] == int(sample["cls"]), "classes differ"
        assert "txt" not in row or row["txt"].encode() == sample["txt"], "texts differ"
    _same_pixels(tensors, [sample["png"] for sample in samples])


PEERS: dict[str, Callable[..., None]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "text": _text,
    "parquet": _tables(lambda path: pq.ParquetFile(path).read()),
    "arrow": _tables(_ipc),
    "numpy": _numpy,
    "images": _images,
    "webdataset": _webdataset,
}


def main() -> None:
    """Answers until its input ends. What libraries print goes to the errors, not between answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        answers.write(json.dumps(answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
