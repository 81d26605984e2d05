"""Formats of files: how rows are found in them, and how a group of rows is read. One visible table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa

from orchestrator.data.sources.index import Content, SourceIndex
from orchestrator.registry import load
from orchestrator.storage import absolute

FORMATS: dict[str, str] = {
    "parquet": "orchestrator.data.sources.formats.parquet:ParquetFormat",
    "csv": "orchestrator.data.sources.formats.delimited:CsvFormat",
    "jsonl": "orchestrator.data.sources.formats.delimited:JsonLinesFormat",
    "text": "orchestrator.data.sources.formats.text:TextFormat",
    "images": "orchestrator.data.sources.formats.images:ImagesFormat",
    "audio": "orchestrator.data.sources.formats.audio:AudioFormat",
    "webdataset": "orchestrator.data.sources.formats.webdataset:WebDatasetFormat",
    "arrow": "orchestrator.data.sources.formats.ipc:ArrowFormat",
    "numpy": "orchestrator.data.sources.formats.arrays:NumpyFormat",
}
"""Kind -> ``module:class`` of its ``Format``, imported on use."""

MUST_BE_SCANNED = {"csv", "jsonl", "text", "webdataset"}
"""Formats without an index of their own: making ours reads them whole, once. Each is a ``ScannedFormat``."""


class Format(Protocol):
    """How one format is read. Made once for each process that reads."""

    extensions: tuple[str, ...]
    """Ends of names that count within a folder; empty for all."""

    def index(self, source: Any, path: str, cache: str) -> SourceIndex:
        """Find files and groups. May read a text format whole, once, and keeps what it found in the cache.

        Args:
            source: the source's section of the job.
            path: absolute path, URI or pattern.
            cache: folder for what takes long to find.

        Raises:
            DataError: missing, damaged, or files that don't fit together, each named.
        """
        ...

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """The rows of one group, in order, with these columns. Raises DataError with file and row."""
        ...

    def contents(self, index: SourceIndex) -> list[Content]:
        """The files whose bytes are the rows, in order. Lists at most, reads none of them."""
        ...

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The source's first rows with all columns, at most so many, without reading much more."""
        ...


class ScannedFormat(Format, Protocol):
    """A format whose index takes reading all of it."""

    def index_beginning(self, source: Any, path: str) -> SourceIndex:
        """An index of the first file's beginning: enough to see columns and their types."""
        ...


def format_of(kind: str) -> Format:
    """A fresh reader of a format."""
    reader: Format = load(FORMATS, kind, "format")()
    return reader


def scanned_format_of(kind: str) -> ScannedFormat:
    """The same for a format of ``MUST_BE_SCANNED``."""
    reader: ScannedFormat = load(FORMATS, kind, "format")()
    return reader


def index_source(source: Any, base_dir: str, cache: str) -> SourceIndex:
    """Files and groups of a source of files."""
    return format_of(source.kind).index(source, absolute(source.path, base_dir), cache)
