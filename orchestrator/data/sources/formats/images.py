"""Images: a folder with one folder for each class, or Parquet with their bytes.

A folder is listed once into a Parquet file of paths and classes in the cache; a few megabytes of images are a group.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.cache import remembered_table
from orchestrator.data.files import FileFacts, read_range
from orchestrator.data.listing import list_files
from orchestrator.data.sources.formats.parquet import ParquetFormat, index_parquet
from orchestrator.data.sources.index import Content, SourceIndex, file_contents, schema_text
from orchestrator.errors import DataError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
_GROUP_BYTES = 2**22
_MOST_ROWS = 256
_VERSION = 2
"""Of what is kept; raise it when ``_list`` makes something else."""


class ImagesFormat:
    """Rows of ``image`` (encoded bytes) and ``label`` (the folder's number among the sorted names)."""

    extensions = (*EXTENSIONS, ".parquet")

    def __init__(self) -> None:
        self._parquet = ParquetFormat()

    def index(self, source: Any, path: str, cache: str) -> SourceIndex:
        """Lists the folder."""
        files = list_files(path, self.extensions, bookkeeping=False)
        if all(facts.path.endswith(".parquet") for facts in files):
            return index_parquet(path)
        files = [facts for facts in files if not facts.path.endswith(".parquet")]
        classes = sorted({_folder(facts.path) for facts in files})
        listed = _write_list(files, classes, path, cache)
        inner = index_parquet(listed)
        size = sum(facts.bytes for facts in files)
        return inner.model_copy(
            update={
                "kind": "images",
                "root": path,
                "classes": tuple(classes),
                "row_bytes": size / len(files),
                "arrow_schema": schema_text(pa.schema([("image", pa.large_binary()), ("label", pa.int64())])),
            }
        )

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """Paths and labels of a group, and the bytes of each file when ``image`` is asked for."""
        stored = ["path" if name == "image" else name for name in columns]
        table = _numbered(self._parquet.read(index, group, stored), index)
        return _with_bytes(table) if "image" in columns else table

    def contents(self, index: SourceIndex) -> list[Content]:
        """The images; the folder that one lies in is data."""
        if not index.classes:
            return file_contents(index)
        listed = _numbered(pq.read_table(pa.BufferReader(read_range(index.files[0].path))), index)
        names = [index.classes[label] for label in listed["label"].to_pylist()]
        facts = (listed[name].to_pylist() for name in ("path", "bytes", "stamp"))
        return [Content(*one) for one in zip(*facts, names, strict=True)]

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The first files."""
        few = index.files[0].model_copy(update={"rows": index.files[0].rows[:1]})
        whole = self._parquet.read(index.model_copy(update={"files": (few,)}), 0, ("path", "label")).slice(
            0, rows
        )
        return _with_bytes(_numbered(whole, index))


def _numbered(table: pa.Table, index: SourceIndex) -> pa.Table:
    """The table with the numbers of the classes that ``numbers`` gives to the folders, where it does."""
    place = table.schema.get_field_index("label")
    if place < 0 or "numbers" not in index.options:
        return table
    numbers = pa.array(json.loads(index.options["numbers"]), type=pa.int64())
    return table.set_column(place, "label", numbers.take(table["label"].combine_chunks()))


def _with_bytes(table: pa.Table) -> pa.Table:
    encoded = pa.array([read_range(path) for path in table["path"].to_pylist()], type=pa.large_binary())
    return table.set_column(table.schema.get_field_index("path"), "image", encoded)


def _folder(path: str) -> str:
    return path.rsplit("/", 2)[-2]


def _write_list(files: list[FileFacts], classes: list[str], root: str, cache: str) -> str:
    """The list as Parquet, named by what is in it."""
    if len({facts.path.rsplit("/", 2)[0] for facts in files}) > 1:
        raise DataError(f"{root}: images must lie in one folder for each class, all below one folder")
    mean = sum(facts.bytes for facts in files) / len(files)
    rows = max(1, min(_MOST_ROWS, int(_GROUP_BYTES / max(1.0, mean))))

    def write(path: str) -> None:
        pq.write_table(_list(files, classes), path, row_group_size=rows)

    key = [rows, [(facts.path, facts.bytes, facts.stamp) for facts in files]]
    return remembered_table(cache, "image-list", _VERSION, key, write)


def _list(files: list[FileFacts], classes: list[str]) -> pa.Table:
    number = {name: index for index, name in enumerate(classes)}
    return pa.table(
        {
            "path": [facts.path for facts in files],
            "bytes": pa.array([facts.bytes for facts in files], type=pa.int64()),
            "stamp": [facts.stamp for facts in files],
            "label": pa.array([number[_folder(facts.path)] for facts in files], type=pa.int64()),
        }
    )
