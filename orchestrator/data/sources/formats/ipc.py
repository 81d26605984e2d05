"""Arrow IPC, files and streams, and Hugging Face datasets on disk, which are streams: a record batch is a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from orchestrator.data.files import FileFacts, locate, retrying
from orchestrator.data.sources.formats.hugging_face import dataset_files
from orchestrator.data.sources.formats.parquet import match_schemas
from orchestrator.data.sources.index import Content, DataFile, SourceIndex, file_contents, schema_text
from orchestrator.data.sources.tables import plain_schema, plain_table, select
from orchestrator.errors import DataError
from orchestrator.storage import is_uri

_FILE_MAGIC = b"ARROW1"


class ArrowFormat:
    """Local files are mapped into memory; nothing is decoded."""

    extensions = (".arrow", ".feather", ".ipc")

    def index(self, source: Any, path: str, cache: str) -> SourceIndex:
        """Reads the headers of the record batches."""
        files = dataset_files(path, self.extensions)
        headers = [_headers(facts) for facts in files]
        found = match_schemas([facts.path for facts in files], [schema for _, schema, _ in headers])
        rows = sum(sum(file.rows) for file, _, _ in headers)
        if rows == 0:
            raise DataError(f"{path}: has no rows")
        return SourceIndex(
            kind="arrow",
            root=path,
            files=tuple(file for file, _, _ in headers),
            arrow_schema=schema_text(headers[0][1]),
            row_bytes=sum(size for _, _, size in headers) / rows,
            found=found,
        )

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """One record batch."""
        return self._batch(index, group, columns)

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The first record batch's that has some."""
        return self._batch(index, int(index.group_rows.nonzero()[0][0]), None).slice(0, rows)

    def _batch(self, index: SourceIndex, group: int, columns: Sequence[str] | None) -> pa.Table:
        file, inner = index.place(group)

        def read() -> pa.RecordBatch:
            with _opened(file.path) as opened:
                if not file.marks:
                    return pa.ipc.open_file(opened).get_batch(inner)
                schema = pa.ipc.open_stream(opened).schema
                opened.seek(file.marks[inner])
                return pa.ipc.read_record_batch(pa.ipc.read_message(opened), schema)

        try:
            batch = retrying(read, file.path)
        except (pa.ArrowException, ValueError) as error:
            raise DataError(f"{file.path}: record batch {inner} is damaged ({str(error)[:200]})") from error
        table = pa.Table.from_batches([batch])
        return plain_table(table if columns is None else select(table, columns), file.path)

    def contents(self, index: SourceIndex) -> list[Content]:
        """The files."""
        return file_contents(index)


def _opened(path: str) -> Any:
    system, inner = locate(path)
    return pa.memory_map(inner) if not is_uri(path) else system.open_input_file(inner)


def _headers(facts: FileFacts) -> tuple[DataFile, pa.Schema, int]:
    """Rows of each record batch, and where it begins in a stream."""

    def read() -> tuple[pa.Schema, list[int], list[int]]:
        with _opened(facts.path) as opened:
            if opened.read(len(_FILE_MAGIC)) == _FILE_MAGIC:
                file = pa.ipc.open_file(opened)
                return file.schema, [file.get_batch(n).num_rows for n in range(file.num_record_batches)], []
            opened.seek(0)
            stream, rows, marks = pa.ipc.open_stream(opened), [], [opened.tell()]
            while True:
                try:
                    rows.append(stream.read_next_batch().num_rows)
                except StopIteration:
                    return stream.schema, rows, marks
                marks.append(opened.tell())

    try:
        schema, rows, marks = retrying(read, facts.path)
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"{facts.path}: is not a whole Arrow file ({str(error)[:200]})") from error
    schema = plain_schema(schema, facts.path)
    if any(pa.types.is_dictionary(field.type) for field in schema):
        raise DataError(
            f"{facts.path}: has dictionary-encoded columns; write it as Parquet, or decode them first"
        )
    file = DataFile(
        path=facts.path,
        bytes=facts.bytes,
        stamp=facts.stamp,
        rows=tuple(rows),
        marks=tuple(marks),
    )
    return file, schema, facts.bytes
