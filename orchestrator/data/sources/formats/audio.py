"""Sounds: a folder with one folder for each class, or a manifest that says of each file what it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from orchestrator.data.listing import list_files
from orchestrator.data.sources.formats.listed import Listing, class_folders, list_classes, write_list
from orchestrator.data.sources.index import Content, SourceIndex
from orchestrator.errors import DataError
from orchestrator.storage import is_uri

EXTENSIONS = (".wav", ".flac", ".ogg")
MANIFESTS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
"""Ending of a manifest -> the format that reads its rows."""
PATHS = ("path", "file_name", "audio_filepath")
"""Columns that name the sounds, the first that is there; the latter two as Hugging Face and NeMo call them."""
_COLUMN = "audio"
_OURS = (_COLUMN, "bytes", "stamp")


class AudioFormat:
    """Rows of ``audio`` (encoded bytes) and ``label`` (the folder's number among the sorted names), or what the manifest
    says beside the path.
    """

    extensions = EXTENSIONS

    def __init__(self) -> None:
        self._listing = Listing("audio", _COLUMN)

    def index(self, source: Any, path: str, cache: str) -> SourceIndex:
        """Lists the folder; of a manifest the folder that it lies in, for the sizes of its files."""
        if is_manifest(path):
            return self._listing.index(path, _listed(path, cache), ())
        files = list_files(path, self.extensions, bookkeeping=False)
        classes = class_folders(files, path)
        return self._listing.index(path, list_classes(files, classes, cache, "audio-list"), classes)

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """Rows of a group; the bytes of each file when ``audio`` is asked for."""
        return self._listing.read(index, group, columns)

    def contents(self, index: SourceIndex) -> list[Content]:
        """The sounds; their folder, or what the manifest says of them, is data."""
        return self._listing.contents(index)

    def beside(self, index: SourceIndex, columns: Sequence[str]) -> pa.Table:
        """What a manifest says of all its sounds, or the folders' numbers, without reading any of them."""
        return self._listing.beside(index, columns)

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The first files."""
        return self._listing.head(index, rows)


def is_manifest(path: str) -> bool:
    """Whether a source of sounds is a file that names them."""
    return path.lower().endswith(tuple(MANIFESTS))


def _listed(manifest: str, cache: str) -> str:
    """A manifest's files as our own list."""
    rows = _rows(manifest, cache)
    column = next((name for name in PATHS if name in rows.column_names), None)
    if column is None:
        raise DataError(
            f"{manifest}: has no column 'path' (nor {' nor '.join(PATHS[1:])}), which names the sound of each row; it has"
            f" {', '.join(rows.column_names)}"
        )
    if taken := [name for name in _OURS if name in rows.column_names]:
        raise DataError(
            f"{manifest}: has a column {taken[0]!r}, which a list of sounds has of its own; rename it"
        )
    folder, name = manifest.rsplit("/", 1)
    # Its own name counts too, so that a folder without any sound is an error of a row, as one without some is.
    below = list_files(folder, (*EXTENSIONS, name.lower()), bookkeeping=False)
    there = {facts.path: facts for facts in below if facts.path.lower().endswith(EXTENSIONS)}
    files = []
    for row, name in enumerate(rows[column].to_pylist()):
        path = _joined(folder, name or "")
        if path not in there:
            raise DataError(
                f"{manifest}, row {row}: there is no sound {name!r} in {folder} ({', '.join(EXTENSIONS)}); paths are"
                " relative to the manifest's folder, and the files lie in it or below"
            )
        files.append(there[path])
    return write_list(files, rows.drop([column]), cache, "audio-list")


def _joined(folder: str, name: str) -> str:
    return name if is_uri(name) or name.startswith("/") else f"{folder}/{name.removeprefix('./')}"


def _rows(manifest: str, cache: str) -> pa.Table:
    """All rows of a manifest, as the format of its ending reads them."""
    from orchestrator.data.sources.formats import format_of
    from orchestrator.spec.data import CsvSource

    kind = next(kind for ending, kind in MANIFESTS.items() if manifest.lower().endswith(ending))
    reader = format_of(kind)
    section = CsvSource(path=manifest) if kind == "csv" else None
    index = reader.index(section, manifest, cache)
    groups = range(len(index.group_rows))
    return pa.concat_tables([reader.read(index, group, index.schema.names) for group in groups])
