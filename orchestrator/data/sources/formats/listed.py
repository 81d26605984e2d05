"""Files that are a row each: in a folder with one folder for each class, listed once.

The list is a Parquet file of paths and classes in the cache; a few megabytes of files are a group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.data.cache import remembered_table
from orchestrator.data.files import FileFacts, read_range
from orchestrator.data.sources.formats.parquet import ParquetFormat, index_parquet
from orchestrator.data.sources.index import Content, SourceIndex, schema_text
from orchestrator.errors import DataError

_GROUP_BYTES = 2**22
_MOST_ROWS = 256
_VERSION = 3
"""Of what is kept; raise it when ``write_list`` makes something else."""


class Listing:
    """The list as a source: ``column`` holds the bytes of each file, which are read when it is asked for."""

    def __init__(self, kind: str, column: str) -> None:
        self._kind, self._column = kind, column
        self._parquet = ParquetFormat()

    def index(self, root: str, listed: str, classes: Sequence[str]) -> SourceIndex:
        """Of a list that ``write_list`` wrote."""
        inner = index_parquet(listed)
        table = pq.read_table(pa.BufferReader(read_range(listed)))
        fields = [pa.field(self._column, pa.large_binary())]
        fields += [field for field in table.schema if field.name not in ("path", "bytes", "stamp")]
        return inner.model_copy(
            update={
                "kind": self._kind,
                "root": root,
                "classes": tuple(classes),
                "row_bytes": pc.sum(table["bytes"]).as_py() / table.num_rows,
                "arrow_schema": schema_text(pa.schema(fields)),
            }
        )

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """Columns of a group, and the bytes of each file where they are asked for."""
        stored = ["path" if name == self._column else name for name in columns]
        table = numbered(self._parquet.read(index, group, stored), index)
        return self._with_bytes(table) if self._column in columns else table

    def contents(self, index: SourceIndex) -> list[Content]:
        """The files; the folder that one lies in is data, as what stands beside it in a list of one's own."""
        listed = numbered(pq.read_table(pa.BufferReader(read_range(index.files[0].path))), index)
        facts = (listed[name].to_pylist() for name in ("path", "bytes", "stamp"))
        if index.classes:
            said = [index.classes[label] for label in listed["label"].to_pylist()]
        else:
            said = [
                json.dumps(row, default=str) for row in listed.drop(["path", "bytes", "stamp"]).to_pylist()
            ]
        return [Content(*one) for one in zip(*facts, said, strict=True)]

    def beside(self, index: SourceIndex, columns: Sequence[str]) -> pa.Table:
        """Columns of all rows, none of them the files' bytes."""
        content = pa.BufferReader(read_range(index.files[0].path))
        return numbered(pq.read_table(content, columns=list(columns)), index)

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The first files."""
        few = index.files[0].model_copy(update={"rows": index.files[0].rows[:1]})
        names = ["path", *(name for name in index.schema.names if name != self._column)]
        whole = self._parquet.read(index.model_copy(update={"files": (few,)}), 0, names)
        return self._with_bytes(numbered(whole.slice(0, rows), index))

    def _with_bytes(self, table: pa.Table) -> pa.Table:
        encoded = pa.array([read_range(path) for path in table["path"].to_pylist()], type=pa.large_binary())
        return table.set_column(table.schema.get_field_index("path"), self._column, encoded)


def class_folders(files: Sequence[FileFacts], root: str) -> list[str]:
    """Names of the classes, sorted: the folders that files lie in. Raises DataError where these are not side by side."""
    if len({facts.path.rsplit("/", 2)[0] for facts in files}) > 1:
        raise DataError(f"{root}: files must lie in one folder for each class, all below one folder")
    return sorted({_folder(facts.path) for facts in files})


def list_classes(files: Sequence[FileFacts], classes: Sequence[str], cache: str, kind: str) -> str:
    """The list of files in folders of classes, written to the cache; returns its path."""
    number = {name: index for index, name in enumerate(classes)}
    labels = [number[_folder(facts.path)] for facts in files]
    return write_list(files, pa.table({"label": pa.array(labels, type=pa.int64())}), cache, kind)


def write_list(files: Sequence[FileFacts], beside: pa.Table, cache: str, kind: str) -> str:
    """A list of files, and what stands beside each, as Parquet in the cache, named by what is in it; returns its path."""
    mean = sum(facts.bytes for facts in files) / len(files)
    rows = max(1, min(_MOST_ROWS, int(_GROUP_BYTES / max(1.0, mean))))
    listed = pa.table(
        {
            "path": [facts.path for facts in files],
            "bytes": pa.array([facts.bytes for facts in files], type=pa.int64()),
            "stamp": [facts.stamp for facts in files],
            **{name: beside[name] for name in beside.column_names},
        }
    )
    key = [rows, [(facts.path, facts.bytes, facts.stamp) for facts in files], _said(beside)]
    return remembered_table(
        cache, kind, _VERSION, key, lambda path: pq.write_table(listed, path, row_group_size=rows)
    )


def _said(beside: pa.Table) -> str:
    """A hash of what stands beside the files."""
    with pa.BufferOutputStream() as out:
        with pa.ipc.new_stream(out, beside.schema) as writer:
            writer.write_table(beside)
        return hashlib.sha256(out.getvalue()).hexdigest()


def numbered(table: pa.Table, index: SourceIndex) -> pa.Table:
    """The table with the numbers of the classes that ``numbers`` gives to the folders, where it does."""
    place = table.schema.get_field_index("label")
    if place < 0 or "numbers" not in index.options:
        return table
    numbers = pa.array(json.loads(index.options["numbers"]), type=pa.int64())
    return table.set_column(place, "label", numbers.take(table["label"].combine_chunks()))


def _folder(path: str) -> str:
    return path.rsplit("/", 2)[-2]
