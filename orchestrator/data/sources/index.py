"""What a source consists of: files, and in each the *groups* that are read as one piece. JSON-able.

A group is a row group of Parquet, a run of whole lines of CSV, a few hundred images. It is the unit that is
skipped when reading starts in the middle of an epoch.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.files import read_range
from orchestrator.section import Section


class DataFile(Section):
    """One file of a source."""

    path: str
    """Absolute path or URI."""
    bytes: int
    """Size."""
    stamp: str = ""
    """Differs once the file was written to (``FileFacts``). Not part of the identity: a copy is the same data."""
    digest: str = ""
    """SHA-256 of its bytes, where finding its rows read all of them."""
    rows: tuple[int, ...]
    """Rows of each group."""
    marks: tuple[int, ...] = ()
    """Byte at which each group begins, and the last one's end (text formats)."""
    columns: tuple[str, ...] = ()
    """Names of its columns in its own order, where that is not the schema's (CSV)."""


class Content(NamedTuple):
    """A file whose bytes are data."""

    path: str
    bytes: int
    stamp: str
    meaning: str = ""
    """What its place says of its rows: their class, their column."""


class SourceIndex(Section):
    """All files of a source, in order."""

    kind: str
    """Format: a name in ``formats.FORMATS``."""
    root: str
    """The path that was asked for."""
    files: tuple[DataFile, ...]
    """In the order of their rows."""
    arrow_schema: str
    """Arrow's schema, serialized, in base64."""
    row_bytes: float
    """Bytes of a row in memory, about."""
    options: dict[str, str] = {}
    """What else the format needs to read."""
    found: tuple[str, ...] = ()
    """What was found of how the files are written that the job does not say, in sentences for the plan's notes. Not
    part of the identity."""
    bounds: dict[str, tuple[int, int]] = {}
    """Least and greatest of columns of whole numbers, where that is known without reading."""
    classes: tuple[str, ...] = ()
    """Names of the classes, where the format knows them (folders of images)."""
    content: str = ""
    """Hash of all that the files hold (``contents.identified``); empty until it is asked for, since that reads them."""
    content_of_files: dict[str, tuple[int, str]] = {}
    """Of the first files, by name: bytes, and the beginning of the hash."""

    @cached_property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.arrow_schema)))

    @cached_property
    def group_rows(self) -> np.ndarray:
        """Rows of each group of all files, int64."""
        return np.array([rows for file in self.files for rows in file.rows], dtype=np.int64)

    @cached_property
    def group_starts(self) -> np.ndarray:
        """Number of the first row of each group, counted over the source."""
        return np.concatenate(([0], np.cumsum(self.group_rows)[:-1])).astype(np.int64)

    @cached_property
    def _group_file(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.files)), [len(file.rows) for file in self.files])

    @cached_property
    def _file_groups(self) -> np.ndarray:
        return np.concatenate(([0], np.cumsum([len(file.rows) for file in self.files])))

    @property
    def rows(self) -> int:
        """All rows."""
        return int(self.group_rows.sum())

    @property
    def lists_files(self) -> bool:
        """Whether rows are files, listed in one of ours."""
        return self.kind in ("images", "audio")

    def place(self, group: int) -> tuple[DataFile, int]:
        """The file of a group, and its number there."""
        file = int(self._group_file[group])
        return self.files[file], int(group - self._file_groups[file])

    def where(self, group: int, row: int) -> str:
        """A row of a group as a person finds it."""
        file, inner = self.place(group)
        place = int(sum(file.rows[:inner])) + row
        if self.lists_files:
            listed = pq.read_table(io.BytesIO(read_range(file.path)), columns=["path"])["path"][place]
            return str(listed) if self.classes else f"{listed} ({self.root}, row {place})"
        return f"{file.path}, row {place}"

    @cached_property
    def identity(self) -> str:
        """SHA-256 over what the files hold, in order, and how it is read: as which columns, in which groups. Neither
        names of files and folders, which say nothing of the rows, nor times matter.
        """
        assert self.content, "identified before it is asked what it is"
        schema = self.schema.to_string(show_schema_metadata=False)
        whole = [self.kind, schema, self.options, self.classes, self.group_rows.tolist(), self.content]
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def schema_text(schema: pa.Schema) -> str:
    """A schema as an index holds it."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()


def file_contents(index: SourceIndex) -> list[Content]:
    """The contents of a source whose files are those that it lists."""
    return [Content(file.path, file.bytes, file.stamp) for file in index.files]


def relative_name(path: str, root: str) -> str:
    """A file's name below the root that was asked for, or its last part."""
    inside = path.removeprefix(root.rstrip("/") + "/")
    return inside if inside != path else path.rsplit("/", 1)[-1]
