"""Columns to arrays, without a Python object for each row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.columns.layout import TensorLayout
from orchestrator.errors import DataError

Values = Any
"""A group's values of one tensor: numbers and text as an array (rows, *shape); encoded images as Arrow's."""


def group_values(table: pa.Table, layout: TensorLayout, where: Any) -> Values:
    """A group's values of one tensor, in the source's own type where that saves copying.

    Args:
        where: (row) -> words that say where it is, for messages.
    """
    columns = [column_array(table, name) for name in layout.columns]
    if layout.kind == "image":
        return encoded_bytes(columns[0])
    if layout.kind == "text":
        texts = [column.to_numpy(zero_copy_only=False).astype(object) for column in columns]
        return texts[0] if not layout.flat else np.stack(texts, axis=1)
    if layout.kind == "dates":
        dates = [_dates(column) for column in columns]
        return dates[0] if not layout.flat else np.stack(dates, axis=1)
    missing = layout.dtype == "float32"
    parts = [
        numbers(column, name, where, missing=missing)
        for column, name in zip(columns, layout.columns, strict=True)
    ]
    if not layout.flat:
        values = parts[0]
    else:
        flat = [part.reshape(len(part), -1) for part in parts]
        values = flat[0] if len(flat) == 1 else np.concatenate([p.astype(layout.dtype) for p in flat], axis=1)
    if layout.dtype == "int64" and values.dtype.kind == "f":
        whole = (values % 1 == 0).reshape(len(values), -1).all(axis=1)
        if not whole.all():
            row = int(np.flatnonzero(~whole)[0])
            raise DataError(f"{where(row)}: {values[row]} is no whole number, which {layout.name!r} takes")
    if values.dtype.kind == "f" and layout.carried[:1] in "iu" and layout.dtype == "float32":
        missing_row = int(np.flatnonzero(np.isnan(values).reshape(len(values), -1).any(axis=1))[0])
        raise DataError(
            f"{where(missing_row)}: {layout.name!r} has a missing value there; fill it, or leave the row out"
        )
    if values.shape[1:] != layout.shape:
        raise DataError(
            f"{where(0)}: tensor {layout.name!r} has the shape {values.shape[1:]} there, but {layout.shape} elsewhere"
        )
    return values


def column_array(table: pa.Table, name: str) -> pa.Array:
    """A column as one array; ``a.b`` is the field b of the struct a, unless a column has that name."""
    outer, _, inner = name.partition(".")
    # Not ``table.column_names``: it makes a list of all of them for each.
    itself = table.schema.get_field_index(name) >= 0
    array = table.column(name if itself else outer)
    whole = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], type=whole.type)
    if inner and not itself:
        whole = pc.struct_field(whole, inner.split("."))
    if pa.types.is_dictionary(whole.type):
        whole = whole.dictionary_decode()
    return whole


def _dates(column: pa.Array) -> np.ndarray:
    """Dates and times as they are in UTC, datetime64[us] (rows,); NaT where there is none."""
    values: np.ndarray = pc.cast(column, pa.timestamp("us"), safe=False).to_numpy(zero_copy_only=False)
    return values


def numbers(array: pa.Array, name: str, where: Any, *, missing: bool) -> np.ndarray:
    """Numbers, lists of numbers (nested too) or tensors as an array (rows, *shape).

    Args:
        missing: a missing whole number becomes NaN, as a missing fraction always does; else it is an error.

    Raises:
        DataError: a whole number is missing, or lists have different lengths.
    """
    kind, rows = array.type, len(array)
    if isinstance(kind, pa.FixedShapeTensorType):
        _refuse_missing(array, name, where)
        values: np.ndarray = array.to_numpy_ndarray()  # heeds the type's permutation of axes
        return values
    if isinstance(kind, pa.ExtensionType):
        return numbers(array.storage, name, where, missing=missing)
    if pa.types.is_fixed_size_list(kind):
        _refuse_missing(array, name, where)
        inner = array.flatten()
        flat = numbers(inner, name, lambda row: where(row // max(1, kind.list_size)), missing=missing)
        return _nested(flat, rows, kind.list_size, name)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        _refuse_missing(array, name, where)
        lengths = np.diff(array.offsets.to_numpy())
        size = int(lengths[0]) if rows else 0
        if (lengths != size).any():
            row = int(np.flatnonzero(lengths != size)[0])
            raise DataError(
                f"{where(row)}: column {name!r} has {lengths[row]} values there, but {size} in the row before"
            )
        flat = numbers(array.flatten(), name, lambda row: where(row // max(1, size)), missing=missing)
        return _nested(flat, rows, size, name)
    if pa.types.is_boolean(kind):
        if not missing:
            _refuse_missing(array, name, where)
        return array.cast(pa.uint8()).to_numpy(zero_copy_only=False)
    if pa.types.is_floating(kind):
        # A missing number is NaN, for a transform to fill.
        return array.to_numpy(zero_copy_only=False)
    if pa.types.is_integer(kind):
        if not missing:
            _refuse_missing(array, name, where)
        return array.to_numpy(zero_copy_only=False)
    if pa.types.is_decimal(kind):
        return array.cast(pa.float64()).to_numpy(zero_copy_only=False)
    if pa.types.is_temporal(kind):
        raise DataError(
            f"column {name!r} is {kind}, not numbers: give dates a tensor of their own in data.columns, e.g. dates:"
            f" [{name}], and under data.transforms {{kind: date, tensor: dates}} and {{kind: join, tensor: features,"
            " append: [dates]}"
        )
    raise DataError(
        f"column {name!r} is {kind}, which is not numbers; leave it out of data.columns, or transform it"
    )


def _nested(flat: np.ndarray, rows: int, size: int, name: str) -> np.ndarray:
    if size == 0 and rows:
        raise DataError(f"column {name!r} holds lists of nothing; leave it out of data.columns")
    return flat.reshape(rows, size, *flat.shape[1:])


def _refuse_missing(array: pa.Array, name: str, where: Any) -> None:
    if array.null_count:
        row = int(np.flatnonzero(pc.is_null(array).to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{where(row)}: column {name!r} has no value there; fill it, or leave the row out")


def encoded_bytes(array: pa.Array) -> pa.Array:
    """Encoded images: binary, or the ``bytes`` of a struct as Hugging Face datasets write it."""
    kind = array.type
    if (
        pa.types.is_struct(kind)
        and kind.get_field_index("bytes") >= 0
        and _is_bytes(kind.field("bytes").type)
    ):
        return pc.struct_field(array, "bytes")
    return array


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
