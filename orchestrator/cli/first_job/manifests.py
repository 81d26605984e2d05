"""Manifests of sounds: tables that name a sound in each row, given by themselves or beside the sounds in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa

from orchestrator.data.sources.formats import MUST_BE_SCANNED, format_of, scanned_format_of
from orchestrator.data.sources.formats.audio import EXTENSIONS, MANIFESTS, PATHS
from orchestrator.errors import DataError
from orchestrator.spec.data import CsvSource

_SOUNDS = (*EXTENSIONS, ".mp3", ".m4a", ".aac", ".opus", ".aif", ".aiff")
"""Endings of sounds; of those that are not read the format says so, with the row."""
_BESIDE = (".csv", ".tsv", ".jsonl", ".parquet")
"""Endings of manifests that are looked for in a folder; other JSON beside sounds is mostly no table."""
_LOOKED_AT = 100


def path_column(manifest: str, rows: pa.Table) -> str | None:
    """The column that makes a table a manifest of sounds; None where it is none.

    Raises:
        DataError: the sounds are there, but their column has a name by which it is not found.
    """
    if not manifest.lower().endswith(tuple(MANIFESTS)):
        return None
    column = next((name for name in PATHS if name in rows.column_names), None)
    if column is not None and _first_sound(rows.column(column)):
        return column
    for name in rows.column_names:
        first = _first_sound(rows.column(name))
        if first and Path(manifest).parent.joinpath(first).is_file():
            raise DataError(
                f"{manifest}: its column {name!r} names sounds; call it 'path', so that the file is read as a manifest of these"
            )
    return None


def _first_sound(values: pa.ChunkedArray) -> str:
    """The first of the names of sounds that a column holds; empty where it holds something else."""
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return ""
    names = list(islice((name for name in values.to_pylist() if name), _LOOKED_AT))
    return names[0] if names and all(name.lower().endswith(_SOUNDS) for name in names) else ""


def manifests_in(folder: Path, cache: str) -> list[str]:
    """Names of the manifests in a folder, if there are sounds in it or below."""
    tables = sorted(one for one in folder.glob("[!.]*") if one.suffix.lower() in _BESIDE)
    if not tables or not any(one.suffix.lower() in EXTENSIONS for one in folder.rglob("*")):
        return []
    return [one.name for one in tables if _is_manifest(str(one), cache)]


def _is_manifest(table: str, cache: str) -> bool:
    try:
        return path_column(table, _beginning(table, cache)) is not None
    except DataError:  # beside sounds lies much; given by itself, a table that can't be read is an error
        return False


def _beginning(table: str, cache: str) -> pa.Table:
    kind = MANIFESTS[Path(table).suffix.lower()]
    section = CsvSource(path=table) if kind == "csv" else None
    if kind in MUST_BE_SCANNED:
        index = scanned_format_of(kind).index_beginning(section, table)
    else:
        index = format_of(kind).index(section, table, cache)
    return format_of(kind).head(index, _LOOKED_AT)


def named_as(names: Sequence[str], parts: Sequence[str]) -> str:
    """The first name with one of these parts in it, as ``train`` in ``train_manifest.csv``; empty where none has."""
    words = {name: Path(name).stem.lower().replace("-", "_").replace(".", "_").split("_") for name in names}
    return next((name for part in parts for name in names if part in words[name]), "")
