"""WebDataset tars: files of one name but their extension are one sample; its columns are the extensions.

The index is where samples begin; a run of samples is a group, read as one range of bytes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.data.cache import remembered
from orchestrator.data.files import FileFacts, locate, read_range, retrying
from orchestrator.data.listing import list_files
from orchestrator.data.sources.index import Content, DataFile, SourceIndex, file_contents, schema_text
from orchestrator.errors import DataError
from orchestrator.storage import is_uri
from orchestrator.storage.faults import first_line

_GROUP_BYTES = 2**23
_THREADS = 8
_VERSION = 2
"""Of what is kept; raise it when ``_scan`` finds something else."""
_NUMBERS = ("cls", "cls2", "index", "id")
_TEXTS = ("txt", "text", "transcript")


class WebDatasetFormat:
    """Columns ``__key__`` and one for each extension: ``cls`` a whole number, ``txt`` text, ``json`` a struct, ``npy``
    an array, all others bytes.
    """

    extensions = (".tar",)

    def index(self, source: Any, path: str, cache: str) -> SourceIndex:
        """Walks through the headers of each tar once, unless the cache has its index."""
        files = list_files(path, self.extensions)
        with ThreadPoolExecutor(min(_THREADS, len(files))) as pool:
            indexed = tuple(pool.map(lambda facts: _indexed(facts, cache), files))
        return _source_index(path, indexed)

    def index_beginning(self, source: Any, path: str) -> SourceIndex:
        """The first tar's first samples."""
        facts = list_files(path, self.extensions)[0]
        return _source_index(path, (_scan(facts, most=_GROUP_BYTES),))

    def read(self, index: SourceIndex, group: int, columns: Sequence[str]) -> pa.Table:
        """One run of samples."""
        file, inner = index.place(group)
        rows = list(_samples(read_range(file.path, file.marks[inner], file.marks[inner + 1]), file.path))
        if len(rows) != file.rows[inner]:
            raise DataError(
                f"{file.path}: changed since its index was made; a file must not change while it is read"
            )
        first = sum(file.rows[:inner])
        return pa.table({name: self._typed(index, name, rows, file.path, first) for name in columns})

    def _typed(self, index: SourceIndex, name: str, rows: list[Any], path: str, first: int) -> pa.Array:
        """A column with the type that the first samples have."""
        column, kind = _column(name, rows, path, first), index.schema.field(name).type
        try:
            return column if column.type == kind else column.cast(kind)
        except pa.ArrowException as error:
            raise DataError(
                f"{path}: rows {first} to {first + len(rows)}: .{name} is {column.type}, but {kind} in the first samples"
            ) from error

    def contents(self, index: SourceIndex) -> list[Content]:
        """The files."""
        return file_contents(index)

    def head(self, index: SourceIndex, rows: int) -> pa.Table:
        """The first group's."""
        return self.read(index, 0, index.schema.names).slice(0, rows)


def _source_index(path: str, indexed: tuple[DataFile, ...]) -> SourceIndex:
    count = sum(sum(file.rows) for file in indexed)
    if count == 0:
        raise DataError(f"{path}: holds no sample")
    first = next(file for file in indexed if file.rows)
    rows = list(_samples(read_range(first.path, first.marks[0], first.marks[1]), first.path))
    columns = {name: _column(name, rows, first.path, 0) for name in rows[0]}
    return SourceIndex(
        kind="webdataset",
        root=path,
        files=indexed,
        arrow_schema=schema_text(pa.table(columns).schema),
        row_bytes=sum(file.marks[-1] - file.marks[0] for file in indexed if file.rows) / count,
    )


def _indexed(facts: FileFacts, cache: str) -> DataFile:
    """The file's groups, from the cache if they were found before."""
    key = [facts.path, facts.bytes, facts.stamp, _GROUP_BYTES]
    entry = remembered(
        cache, "tar-index", _VERSION, key, lambda: _scan(facts, most=None).model_dump(mode="json")
    )
    return DataFile.model_validate(entry)


def _scan(facts: FileFacts, most: int | None) -> DataFile:
    """Groups of whole samples of about eight megabytes."""
    marks: list[int] = []
    rows: list[int] = []
    pending, end, key = 0, 0, None
    for member in _members(facts, most):
        name, _ = _split_name(member.name)
        if name != key:
            key = name
            if not marks:
                marks.append(member.offset)
            elif member.offset - marks[-1] >= _GROUP_BYTES:
                rows.append(pending)
                marks.append(member.offset)
                pending = 0
            pending += 1
        end = member.offset_data + -(-member.size // 512) * 512
    if pending:
        rows.append(pending)
        marks.append(end)
    return DataFile(
        path=facts.path,
        bytes=facts.bytes,
        stamp=facts.stamp,
        rows=tuple(rows),
        marks=tuple(marks or (0,)),
    )


def _members(facts: FileFacts, most: int | None) -> Iterator[tarfile.TarInfo]:
    """The files in a tar, in order: from headers alone on a disk, by streaming from an object store."""
    system, inner = locate(facts.path)
    local = not is_uri(facts.path)
    opened = retrying(
        lambda: system.open_input_file(inner) if local else system.open_input_stream(inner), facts.path
    )
    try:
        with opened, tarfile.open(fileobj=opened, mode="r:" if local else "r|") as tar:
            for member in tar:
                if most is not None and member.offset > most:
                    return
                if _is_data(member):
                    yield member
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        raise DataError(f"{facts.path}: is not a whole tar ({first_line(error)})") from error


def _is_data(member: tarfile.TarInfo) -> bool:
    """Whether it is a file that no dot hides: macOS puts ``._name`` beside each."""
    return member.isfile() and not any(part.startswith("._") for part in member.name.split("/"))


def _split_name(name: str) -> tuple[str, str]:
    """What a sample's files have in common, and the extension: all after the first dot of the last part."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return folder + slash + stem, extension.lower()


def _samples(content: bytes, path: str) -> Iterator[dict[str, Any]]:
    sample: dict[str, Any] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                if not _is_data(member):
                    continue
                key, extension = _split_name(member.name)
                if sample and sample["__key__"] != key:
                    yield sample
                    sample = {}
                if not sample:
                    sample["__key__"] = key
                file = tar.extractfile(member)
                if file is None or extension in sample:
                    raise DataError(
                        f"{path}: sample {key!r} has two .{extension} files, or one that is a link"
                    )
                sample[extension] = file.read()
    except (tarfile.TarError, ValueError, EOFError, OverflowError) as error:
        raise DataError(f"{path}: is damaged ({first_line(error)})") from error
    if sample:
        yield sample


def _tensors(arrays: list[np.ndarray]) -> pa.Array:
    """One number each, or arrays of one shape and type."""
    kinds = {(array.dtype, array.shape) for array in arrays}
    dtype, shape = arrays[0].dtype, arrays[0].shape
    if len(kinds) > 1 or dtype.kind not in "biuf" or dtype.itemsize > 8 or not dtype.isnative or 0 in shape:
        raise ValueError(
            f"arrays must be of numbers and of one shape and type, not {' and '.join(map(str, kinds))}"
        )
    values = np.stack(arrays)
    if not shape:
        return pa.array(values)
    return pa.FixedShapeTensorArray.from_numpy_ndarray(
        values.astype(np.uint8) if dtype.kind == "b" else values
    )


def _column(name: str, rows: list[dict[str, Any]], path: str, first: int) -> pa.Array:
    for number, row in enumerate(rows):
        if name not in row:
            raise DataError(
                f"{path}: sample {row['__key__']!r} (row {first + number}) has no .{name} file, others have"
            )
    values = [row[name] for row in rows]
    kind = name.rsplit(".", 1)[-1]
    try:
        if name == "__key__":
            return pa.array(values, type=pa.string())
        if kind in _NUMBERS:
            return pa.array([int(value) for value in values], type=pa.int64())
        if kind in _TEXTS:
            return pa.array([value.decode("utf-8") for value in values], type=pa.string())
        if kind == "json":
            return pa.array([json.loads(value) for value in values])
        if kind == "npy":
            return _tensors([np.load(io.BytesIO(value), allow_pickle=False) for value in values])
    except Exception as error:  # numpy, JSON and Arrow have many words for text that is none of theirs
        raise DataError(
            f"{path}: rows {first} to {first + len(rows)}: .{name} can't be read ({first_line(error)[:150]})"
        ) from error
    return pa.array(values, type=pa.large_binary())
