"""Numpy: a folder of ``.npy`` files of one length, each a column named by its file; some rows are a group."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.data.files import FileFacts, read_range
from orchestrator.data.listing import list_files
from orchestrator.data.sources.index import Content, DataFile, SourceIndex, relative_name, schema_text
from orchestrator.errors import DataError
from orchestrator.storage.faults import first_line

_GROUP_BYTES = 2**22
_HEADER_BYTES = 2**12
_MOST_ITEM_BYTES = 8


class NumpyFormat:
    """Arrays in C order of numbers; objects are refused, since reading them would run code."""

    extensions = (".npy",)

    def index(self, source: Any, path: str, cache: str) -> SourceIndex:
        """Reads the headers."""
        files = list_files(path, self.extensions)
        headers = [_Header(facts) for facts in files]
        folder = _shared_folder(files)
        _refuse_same_names(headers)
        rows = headers[0].shape[0]
        for header in headers[1:]:
            if header.shape[0] != rows:
                raise DataError(
                    f"{header.facts.path}: has {header.shape[0]} rows, but {files[0].path} has {rows}; the arrays of a"
                    " folder must have one length"
                )
        if rows == 0:
            raise DataError(f"{path}: has no rows")
        row_bytes = sum(header.row_bytes for header in headers)
        group_rows = max(1, _GROUP_BYTES // max(1, row_bytes))
        groups = tuple(min(group_rows, rows - start) for start in range(0, rows, group_rows))
        return SourceIndex(
            kind="numpy",
            root=path,
            files=(
                DataFile(
                    path=folder,
                    bytes=sum(facts.bytes for facts in files),
                    rows=groups,
                    marks=(0, *np.cumsum(groups).tolist()),
                ),
            ),
            arrow_schema=schema_text(pa.schema([(header.name, header.arrow_type) for header in headers])),
            row_bytes=row_bytes,
            options={header.name: relative_name(header.facts.path, folder) for header in headers},
        )

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """Some rows of each array."""
        file, inner = index.place(group)
        first, stop = file.marks[inner], file.marks[inner + 1]
        return pa.table(
            {name: self._column(f"{file.path}/{index.options[name]}", first, stop) for name in columns}
        )

    def contents(self, index: SourceIndex) -> list[Content]:
        """The arrays; which column an array is, is data."""
        columns = {f"{index.files[0].path}/{name}": column for column, name in index.options.items()}
        files = list_files(index.root, self.extensions)
        return [Content(facts.path, facts.bytes, facts.stamp, columns[facts.path]) for facts in files]

    def _column(self, path: str, first: int, stop: int) -> pa.Array:
        header = _Header(FileFacts(path, 0, ""))
        start = header.offset + first * header.row_bytes
        raw = read_range(path, start, start + (stop - first) * header.row_bytes)
        if len(raw) != (stop - first) * header.row_bytes:
            raise DataError(
                f"{path}: is shorter than when the run began; a file must not change while it is read"
            )
        values = np.frombuffer(raw, dtype=header.dtype).reshape(stop - first, *header.shape[1:])
        if values.ndim == 1:
            return pa.array(values)
        flat = pa.array(values.astype(header.stored, copy=False).reshape(-1))
        storage = pa.FixedSizeListArray.from_arrays(flat, math.prod(header.shape[1:]))
        return pa.ExtensionArray.from_storage(header.arrow_type, storage)

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The first group's."""
        return self.read(index, 0, index.schema.names).slice(0, rows)


def _shared_folder(files: Sequence[FileFacts]) -> str:
    """The innermost folder that all lie below."""
    folder = files[0].path.rpartition("/")[0]
    while not all(facts.path.startswith(f"{folder}/") for facts in files):
        folder = folder.rpartition("/")[0]
    return folder


def _refuse_same_names(headers: list[_Header]) -> None:
    """Two files of one name, in two folders, would be one column."""
    paths: dict[str, str] = {}
    for header in headers:
        other = paths.setdefault(header.name, header.facts.path)
        if other != header.facts.path:
            raise DataError(
                f"{header.facts.path}: has the name of {other}; each array needs a name of its own"
            )


class _Header:
    """What an ``.npy`` file says of its array."""

    def __init__(self, facts: FileFacts) -> None:
        self.facts = facts
        self.name = facts.path.rsplit("/", 1)[-1].removesuffix(".npy")
        stop = min(_HEADER_BYTES, facts.bytes) if facts.bytes else _HEADER_BYTES
        start = io.BytesIO(read_range(facts.path, 0, stop))
        try:
            version = np.lib.format.read_magic(start)
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            self.shape, in_columns, self.dtype = read(start)
        except Exception as error:  # numpy reads it as Python's text, which fails in many ways
            raise DataError(f"{facts.path}: is not an .npy file ({first_line(error)[:200]})") from error
        if (
            self.dtype.kind not in "biuf"
            or self.dtype.itemsize > _MOST_ITEM_BYTES
            or not self.dtype.isnative
            or not self.shape
            or min(self.shape) < 0
            or (in_columns and len(self.shape) > 1)
        ):
            raise DataError(
                f"{facts.path}: holds {self.dtype} of shape {self.shape}; write numbers of at most 64 bits with rows"
                " first, in C order and this machine's byte order"
            )
        if 0 in self.shape[1:]:
            raise DataError(f"{facts.path}: its rows hold nothing, its shape is {self.shape}")
        self.offset = start.tell()
        self.row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        bytes_said = self.offset + self.shape[0] * self.row_bytes
        if facts.bytes and facts.bytes != bytes_said:
            raise DataError(
                f"{facts.path}: has {facts.bytes} bytes, but its header says {bytes_said}; it was cut off or changed"
            )

    @property
    def stored(self) -> np.dtype:
        """The type of its values in Arrow, which has no tensors of bools."""
        return np.dtype(np.uint8) if self.dtype.kind == "b" and len(self.shape) > 1 else self.dtype

    @property
    def arrow_type(self) -> pa.DataType:
        """The column's type."""
        kind = pa.from_numpy_dtype(self.stored)
        return kind if len(self.shape) == 1 else pa.fixed_shape_tensor(kind, self.shape[1:])
