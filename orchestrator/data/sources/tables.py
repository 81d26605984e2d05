"""What a table from a file may hold: plain Arrow types, and each asked-for name once."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pyarrow as pa

from orchestrator.errors import DataError

_TENSOR = "arrow.fixed_shape_tensor"
_RAY_TENSORS = ("ray.data.arrow_tensor", "ray.data.arrow_tensor_v2")
_STORED_PLAINLY = ("arrow.json", "arrow.uuid", "arrow.bool8")
"""Extension types of Arrow's own that are read as what they are stored as."""
_MOST_NAMES = 10
_NAME, _SAYS = b"ARROW:extension:name", b"ARROW:extension:metadata"


def plain_schema(schema: pa.Schema, path: str) -> pa.Schema:
    """The schema without extension types, but for Arrow's tensors of one shape; the same whatever types are registered.

    An extension type may run code when its values become Python objects: Ray's, which holds pickles, does. So only known
    ones pass, and none of them as what it is registered as.

    Raises:
        DataError: a column has another one, whether or not it is asked for.
    """
    try:
        _ = schema.names
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: a column's name is not UTF-8 ({error.object[:40]!r}); rename it") from error
    return pa.schema([pa.field(field.name, _plain_type(field, path), field.nullable) for field in schema])


def plain_table(table: pa.Table, path: str) -> pa.Table:
    """The table with the columns of ``plain_schema``, checked to be whole. Raises DataError."""
    try:
        table.validate(full=True)
    except pa.ArrowException as error:
        raise DataError(f"{path}: is damaged ({str(error)[:200]})") from error
    schema = plain_schema(table.schema, path)
    for place, field in enumerate(schema):
        column = table.column(place)
        if column.type != field.type:
            chunks = [_plain_array(chunk, field, path) for chunk in column.chunks]
            table = table.set_column(place, field, pa.chunked_array(chunks, type=field.type))
    return table


def select(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Columns by name, in this order; of a name that stands twice both, for ``one_column`` to refuse."""
    places = [place for name in dict.fromkeys(names) for place in table.schema.get_all_field_indices(name)]
    return table.select(places)


def one_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column by name. Raises DataError where there is none of the name, or several."""
    places = table.schema.get_all_field_indices(name)
    if len(places) > 1:
        raise DataError(f"column {name!r} is there {len(places)} times; give each a name of its own")
    if not places:
        raise DataError(f"there is no column {name!r}; the data has {', '.join(table.column_names)}")
    return table.column(places[0])


def match_columns(paths: Sequence[str], columns: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """What to say of the columns of a source's files, which are matched by name with those of the first.

    Args:
        columns: the names in each file, in its order.

    Raises:
        DataError: a file lacks one.
    """
    known = set(columns[0])
    for path, names in zip(paths, columns, strict=True):
        if not known.issubset(names):
            lacking = [name for name in columns[0] if name not in set(names)]
            raise DataError(
                f"{path}: has no column {named(lacking)}, which {paths[0]} has; it has {named(names)}, and columns of"
                " files are matched by name"
            )
    return further_columns(paths, columns)


def further_columns(paths: Sequence[str], columns: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """What to say of columns that the first file lacks; see ``match_columns``."""
    known, further = set(columns[0]), dict[str, str]()
    for path, names in zip(paths, columns, strict=True):
        for name in names:
            if name not in known:
                further.setdefault(name, path)
    return tuple(
        f"columns that {paths[0]} lacks are not read: {named([n for n, where in further.items() if where == path])}"
        f" of {path}"
        for path in list(dict.fromkeys(further.values()))[:_MOST_NAMES]
    )


def named(names: Sequence[str]) -> str:
    """Names of columns for a message, the first of many."""
    shown = ", ".join(map(repr, names[:_MOST_NAMES]))
    return shown + (f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else "")


def _plain_type(field: pa.Field, path: str) -> pa.DataType:
    """Of a column, by the name of its extension type: as it is registered here, or as the file says."""
    kind, said = field.type, field.metadata or {}
    if isinstance(kind, pa.BaseExtensionType):
        name, kind = kind.extension_name, kind.storage_type
    else:
        name = said.get(_NAME, b"").decode(errors="replace")
    if name == _TENSOR and isinstance(field.type, pa.FixedShapeTensorType):
        return field.type
    if name in _RAY_TENSORS:
        shape = getattr(field.type, "shape", None) or _shape(said.get(_SAYS, b""))
        if shape is None or not (pa.types.is_list(kind) or pa.types.is_large_list(kind)):
            raise DataError(f"{path}: column {field.name!r} is a tensor whose shape can't be read")
        return pa.fixed_shape_tensor(kind.value_type, shape)
    if name and name not in _STORED_PLAINLY:
        raise DataError(
            f"{path}: column {field.name!r} is of the extension type {name!r}, which may run code when it is read;"
            " write it with a plain type, or without the column"
        )
    _refuse_inner(kind, field.name, path)
    return kind


def _refuse_inner(kind: pa.DataType, column: str, path: str) -> None:
    inner = [kind.field(place) for place in range(kind.num_fields)] if pa.types.is_nested(kind) else []
    if pa.types.is_dictionary(kind):
        inner = [pa.field("values", kind.value_type)]
    for field in inner:
        if isinstance(field.type, pa.BaseExtensionType) or _NAME in (field.metadata or {}):
            raise DataError(
                f"{path}: column {column!r} has an extension type within it; write it with plain types"
            )
        _refuse_inner(field.type, column, path)


def _shape(text: bytes) -> list[int] | None:
    try:
        shape = json.loads(text)
    except ValueError:
        return None
    sizes = shape if isinstance(shape, list) else []
    return sizes if sizes and all(type(size) is int and size > 0 for size in sizes) else None


def _plain_array(chunk: pa.Array, field: pa.Field, path: str) -> pa.Array:
    storage = chunk.storage if isinstance(chunk, pa.ExtensionArray) else chunk
    if storage.type == field.type:
        return storage
    assert isinstance(field.type, pa.FixedShapeTensorType), "all others are as they are stored"
    size = math.prod(field.type.shape)
    if storage.null_count or len(storage.flatten()) != size * len(storage):
        raise DataError(
            f"{path}: column {field.name!r} has a value that is not of the shape {field.type.shape}"
        )
    lists = pa.FixedSizeListArray.from_arrays(storage.flatten(), size)
    return pa.ExtensionArray.from_storage(field.type, lists)
