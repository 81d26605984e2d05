"""Which source a path is: its format, the files to evaluate on, and a sample of its rows."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.cli.first_job.columns import holds_sounds
from orchestrator.cli.first_job.draft import scalar
from orchestrator.cli.first_job.manifests import manifests_in, named_as, path_column
from orchestrator.data.files import read_range
from orchestrator.data.listing import list_files
from orchestrator.data.sources.formats import MUST_BE_SCANNED, format_of, index_source, scanned_format_of
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.kinds import kind_of_files
from orchestrator.errors import DataError
from orchestrator.spec.data import CsvSource, FileSource, TextSource
from orchestrator.storage import absolute

_TRAIN = ("train", "training")
_HELD_OUT = ("validation", "valid", "val", "dev", "eval", "test", "testing")
"""Names of folders and splits, the first that is there."""
_SAMPLE_ROWS = 20_000
_SAMPLE_BYTES = 2**26


@dataclass(frozen=True)
class Found:
    """A source and what its beginning holds."""

    lines: Sequence[str]
    """Of ``data.train``."""
    evaluation: str
    """``data.eval``: files of their own, or a split."""
    index: SourceIndex
    sample: pa.Table
    """The first rows, all columns."""
    rows: int | None
    """All of them, where that is known without reading everything."""
    found: Sequence[str]
    """Sentences on how it was recognized."""

    @property
    def train_rows(self) -> int:
        """About how many rows are trained on."""
        rows = self.sample.num_rows if self.rows is None else self.rows
        return rows - (rows // 5 if "split" in self.evaluation else 0)


def find_source(path: str, base_dir: str, cache: str) -> Found:
    """Look at a path. Raises DataError where it is no data that is known, or can't be read."""
    train, held_out, found = _parts_of(path, base_dir, cache)
    kind, why = kind_of_files(absolute(train, base_dir))
    options = _options(kind, absolute(train, base_dir))
    section = _section(kind, train, options)
    index, rows = _index(section, base_dir, cache)
    sample = _sample(index)
    has_sounds = any(map(holds_sounds, sample.columns))
    if not has_sounds and (column := path_column(absolute(train, base_dir), sample)) is not None:
        kind, options, why = "audio", {}, f"a manifest, whose column {column} names the sound of each row"
        index, rows = _index(_section(kind, train, options), base_dir, cache)
        sample = sample.drop([column])
    elif index.kind == "csv" and (mark := _thousands(sample)):
        options = {**options, "thousands": json.dumps(mark)}
        found = [*found, f"thousands {mark!r}: there are numbers like 1{mark}234 and none like 1{mark}5"]
        index, rows = _index(_section(kind, train, {"thousands": mark}), base_dir, cache)
        sample = _sample(index)
    lines = [
        f"kind: {kind}",
        f"path: {scalar(train)}",
        *(f"{name}: {text}" for name, text in options.items()),
    ]
    more = "".join(f", {name}: {text}" for name, text in options.items())
    evaluation = f"{{kind: {kind}, path: {scalar(held_out)}{more}}}" if held_out else _split_part(rows)
    return Found(
        lines, evaluation, index, sample, rows, [why, *index.found, *found, *_partly(index, sample, rows)]
    )


def _split_part(rows: int | None) -> str:
    return "" if rows is not None and rows < 10 else "{kind: split, fraction: 0.2}"


def _partly(index: SourceIndex, sample: pa.Table, rows: int | None) -> list[str]:
    if rows == sample.num_rows or index.lists_files:  # of files more are looked at where a job is drafted
        return []
    return [f"the first {sample.num_rows:,} rows were looked at, so what only later ones hold is not known"]


def _parts_of(path: str, base_dir: str, cache: str) -> tuple[str, str, list[str]]:
    """What to train on, what to evaluate on (or nothing), and why: manifests of sounds in a folder, or folders."""
    train, held_out, found = _split_of(path, base_dir)
    own, beside, said = _manifests_of(train, base_dir, cache)
    if not own:
        return train, held_out, found
    if not held_out:
        return own, beside, [*found, *said]
    beside = _manifests_of(held_out, base_dir, cache)[0]
    # Sounds that no manifest speaks of can't be evaluated on by what the training sounds' manifest says.
    return own, beside, [*(found if beside else []), *said]


def _manifests_of(path: str, base_dir: str, cache: str) -> tuple[str, str, list[str]]:
    """The manifest to train on within a folder of sounds, and the one to evaluate on; empty where there is none."""
    folder = Path(absolute(path, base_dir))
    names = manifests_in(folder, cache) if folder.is_dir() else []
    if not names:
        return "", "", []
    train = names[0] if len(names) == 1 else named_as(names, _TRAIN)
    if not train:
        raise DataError(
            f"{folder}: holds several manifests of sounds ({', '.join(names)}), none named train; give one: --data {path}/{names[0]}"
        )
    held_out = named_as([name for name in names if name != train], _HELD_OUT)
    said = f"the manifest {train} is trained on" + (f", {held_out} is evaluated on" if held_out else "")
    base = path.rstrip("/")
    return f"{base}/{train}", f"{base}/{held_out}" if held_out else "", [said]


def _split_of(path: str, base_dir: str) -> tuple[str, str, list[str]]:
    """What to train on, what to evaluate on (or nothing), and why."""
    folder = Path(absolute(path, base_dir))
    if not folder.is_dir():
        return path, "", []
    there = sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    lower = {name.lower(): name for name in there}
    train = next((lower[name] for name in _TRAIN if name in lower), None)
    if train is None:
        return path, "", []
    held_out = next((lower[name] for name in _HELD_OUT if name in lower), None)
    base = path.rstrip("/")
    said = f"the folder {train} is trained on" + (f", {held_out} is evaluated on" if held_out else "")
    return f"{base}/{train}", f"{base}/{held_out}" if held_out else "", [said]


def _options(kind: str, path: str) -> dict[str, str]:
    """Fields of the source that have to be given."""
    if kind != "text":
        return {}
    files = list_files(path, ())
    start = read_range(files[0].path, 0, min(2**18, files[0].bytes))
    if len(files) > 20:
        return {"rows": "file"}
    return {"rows": "paragraph"} if start.count(b"\n\n") + start.count(b"\r\n\r\n") > 20 else {}


def _section(kind: str, path: str, options: dict[str, str]) -> Any:
    if kind == "csv":
        return CsvSource.model_validate({"path": path, **options})
    if kind == "text":
        return TextSource.model_validate({"path": path, **options})
    return FileSource.model_validate({"kind": kind, "path": path})


def _index(section: Any, base_dir: str, cache: str) -> tuple[SourceIndex, int | None]:
    path = absolute(section.path, base_dir)
    if section.kind in MUST_BE_SCANNED and sum(one.bytes for one in list_files(path, ())) > _SAMPLE_BYTES:
        return scanned_format_of(section.kind).index_beginning(section, path), None
    index = index_source(section, base_dir, cache)
    return index, index.rows


def _sample(index: SourceIndex) -> pa.Table:
    """Rows of the first groups."""
    reader = format_of(index.kind)
    if index.lists_files:
        return reader.head(index, 1)
    tables, rows = [], 0
    for group in range(len(index.group_rows)):
        if rows and (rows >= _SAMPLE_ROWS or rows * index.row_bytes > _SAMPLE_BYTES):
            break
        tables.append(reader.read(index, group, index.schema.names))
        rows += tables[-1].num_rows
    return pa.concat_tables(tables, promote_options="permissive").combine_chunks()


def _thousands(sample: pa.Table) -> str | None:
    """The mark of thousands that texts hold which are numbers but for it, where nothing speaks for a decimal mark."""
    written = re.compile(r"[+-]?\d{1,3}(,\d{3})+")
    plain = re.compile(r"[+-]?\d{1,3}")
    for column in sample.columns:
        if not pa.types.is_string(column.type):
            continue
        texts = [text.strip() for text in column.drop_null().to_pylist()]
        if any(map(written.fullmatch, texts)) and all(
            written.fullmatch(text) or plain.fullmatch(text) for text in texts
        ):
            return ","
    return None
