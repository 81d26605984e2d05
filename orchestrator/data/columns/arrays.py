"""Columns to arrays, without a Python object for each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.columns.layout import TensorLayout
from orchestrator.data.mends import DROP_LABEL, FILL_OR_DROP, mend_of
from orchestrator.errors import DataError

Where = Callable[[int], str]
"""Words that say where a row is."""

Values = Any
"""A group's values of one tensor: numbers and text as an array (rows, *shape); encoded images and sounds as Arrow's."""


def group_values(table: pa.Table, layout: TensorLayout, where: Where) -> Values:
    """A group's values of one tensor, in the source's own type where that saves copying.

    Args:
        where: (row) -> words that say where it is, for messages.

    Raises:
        DataError: a value is missing, of another shape, or none that ``layout.carried`` can hold; names row and column.
    """
    try:
        return _group_values(table, layout, where)
    except _MissingValue as error:
        mend = DROP_LABEL if layout.name == "label" else FILL_OR_DROP
        raise DataError(_mended(error.what, mend)) from None


def _group_values(table: pa.Table, layout: TensorLayout, where: Where) -> Values:
    columns = {name: column_array(table, name) for name in layout.columns}
    if layout.encoded:
        return encoded_bytes(columns[layout.columns[0]])
    if layout.kind == "text":
        return _beside([_texts(column, name, layout, where) for name, column in columns.items()], layout)
    if layout.kind == "dates":
        return _beside([_dates(column, name, layout, where) for name, column in columns.items()], layout)
    parts = [
        _holdable(numbers(column, name, where, missing=layout.gaps), name, layout, where)
        for name, column in columns.items()
    ]
    if not layout.flat:
        values = parts[0]
    else:
        flat = [part.reshape(len(part), -1) for part in parts]
        values = (
            flat[0] if len(flat) == 1 else np.concatenate([p.astype(layout.carried) for p in flat], axis=1)
        )
    if values.shape[1:] != layout.shape:
        raise DataError(
            f"{where(0)}: tensor {layout.name!r} has the shape {values.shape[1:]} there, but {layout.shape} elsewhere;"
            " write lists of one length, or leave the column out of data.columns"
        )
    return values


def _beside(parts: list[np.ndarray], layout: TensorLayout) -> np.ndarray:
    return np.stack(parts, axis=1) if layout.flat else parts[0]


def _holdable(values: np.ndarray, name: str, layout: TensorLayout, where: Where) -> np.ndarray:
    """The values, once the carried type is known to hold each of them as it is."""
    if layout.carried[:1] not in "iu" or np.can_cast(values.dtype, layout.carried):
        return values
    limits = np.iinfo(layout.carried)
    whole = values % 1 == 0
    # As a float64 the greatest of 64 bits is one too large, so it is asked for less than the next.
    most = values < float(limits.max) + 1 if values.dtype.kind == "f" else values <= limits.max
    held = (whole & (values >= limits.min) & most).reshape(len(values), -1)
    if not held.all():
        row = int(np.flatnonzero(~held.all(axis=1))[0])
        value = values[row].ravel()[np.flatnonzero(~held[row])[0]]
        fault = "takes more than 64 bits" if value % 1 == 0 else "is no whole number"
        mend = "; {kind: encode, tensor: label} under data.transforms makes any values classes"
        raise DataError(
            f"{where(row)}: {value} in column {name!r} {fault}, but {layout.name!r} takes whole numbers"
            + (mend if layout.name == "label" else "")
        )
    return values.astype(layout.carried)


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


def _dates(column: pa.Array, name: str, layout: TensorLayout, where: Where) -> np.ndarray:
    """Dates and times as they are in UTC, datetime64[us] (rows,); NaT where there is none."""
    if not layout.gaps:
        _refuse_missing(column, name, where)
    values: np.ndarray = pc.cast(column, pa.timestamp("us"), safe=False).to_numpy(zero_copy_only=False)
    return values


def _texts(column: pa.Array, name: str, layout: TensorLayout, where: Where) -> np.ndarray:
    """Texts (rows,), None where there is none; numbers beside texts with all their digits."""
    texts = _written(column, name)
    texts = pc.if_else(missing_in(texts, blank=layout.blank_is_missing), None, texts)
    if not layout.gaps:
        _refuse_missing(texts, name, where)
    values: np.ndarray = texts.to_numpy(zero_copy_only=False).astype(object)
    return values


def _written(column: pa.Array, name: str) -> pa.Array:
    """Values as text; whole numbers without a fraction, so that a gap in a column changes none of them."""
    if pa.types.is_floating(column.type):
        values = column.to_pylist()
        whole = [value is not None and value == value and value % 1 == 0 for value in values]
        texts = [
            None if value is None or value != value else str(int(value)) if is_whole else repr(value)
            for value, is_whole in zip(values, whole, strict=True)
        ]
        return pa.array(texts, type=pa.string())
    try:
        return pc.cast(column, pa.string())
    except pa.ArrowException:
        raise DataError(
            f"column {name!r} is {column.type}, not text or numbers; leave it out of data.columns, or mend it:"
            f" {mend_of(name, column.type, 'features')}"
        ) from None


def numbers(array: pa.Array, name: str, where: Where, *, missing: bool) -> np.ndarray:
    """Numbers, lists of numbers (nested too) or tensors as an array (rows, *shape).

    Args:
        missing: a missing number becomes NaN, for a transform to fill in; else it is an error.

    Raises:
        DataError: a number is missing, or lists have different lengths.
    """
    kind, rows = array.type, len(array)
    if isinstance(kind, pa.FixedShapeTensorType):
        _refuse_missing(array, name, where)
        values: np.ndarray = array.to_numpy_ndarray()  # heeds the type's permutation of axes
        return values if missing else _without_nan(values, name, where)
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
                f"{where(row)}: column {name!r} has {lengths[row]} values there, but {size} in the row before;"
                " write lists of one length, or leave the column out of data.columns"
            )
        flat = numbers(array.flatten(), name, lambda row: where(row // max(1, size)), missing=missing)
        return _nested(flat, rows, size, name)
    if not missing:
        _refuse_missing(array, name, where)
    if pa.types.is_boolean(kind):
        return array.cast(pa.uint8()).to_numpy(zero_copy_only=False)
    if pa.types.is_floating(kind):
        values = array.to_numpy(zero_copy_only=False)
        return values if missing else _without_nan(values, name, where)
    if pa.types.is_integer(kind):
        return array.to_numpy(zero_copy_only=False)
    if pa.types.is_decimal(kind):
        return array.cast(number_type(kind)).to_numpy(zero_copy_only=False)
    raise DataError(
        f"column {name!r} is {kind}, not numbers; leave it out of data.columns, or mend it:"
        f" {mend_of(name, kind, 'features')}"
    )


def number_type(kind: pa.DataType) -> pa.DataType | None:
    """The type of the numbers in a column of such a type; None where it holds none."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return kind.value_type
    if isinstance(kind, pa.ExtensionType):
        return number_type(kind.storage_type)
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return number_type(kind.value_type)
    if pa.types.is_dictionary(kind):
        return number_type(kind.value_type)
    if pa.types.is_decimal(kind):
        return pa.int64() if kind.scale == 0 and kind.precision <= _DIGITS_OF_INT64 else pa.float64()
    if pa.types.is_boolean(kind):
        return pa.uint8()
    return kind if pa.types.is_integer(kind) or pa.types.is_floating(kind) else None


_DIGITS_OF_INT64 = 18


def _without_nan(values: np.ndarray, name: str, where: Where) -> np.ndarray:
    """The values. Raises DataError at the first that is no number."""
    # The least value is NaN if any is: several times faster than asking each.
    if values.dtype.kind == "f" and values.size and np.isnan(values.min()):
        row = int(np.flatnonzero(np.isnan(values).reshape(len(values), -1).any(axis=1))[0])
        raise _nothing_there(name, where(row))
    return values


def _nested(flat: np.ndarray, rows: int, size: int, name: str) -> np.ndarray:
    if size == 0 and rows:
        raise DataError(f"column {name!r} holds lists of nothing; leave it out of data.columns")
    return flat.reshape(rows, size, *flat.shape[1:])


def _refuse_missing(array: pa.Array, name: str, where: Where) -> None:
    if array.null_count:
        row = int(np.flatnonzero(pc.is_null(array).to_numpy(zero_copy_only=False))[0])
        raise _nothing_there(name, where(row))


class _MissingValue(DataError):
    """A row has no value in a column. Does not leave this process: Ray could not carry it."""

    def __init__(self, what: str) -> None:
        super().__init__(_mended(what, FILL_OR_DROP))
        self.what = what


def _mended(what: str, mend: str) -> str:
    return f"{what}; {mend}, or data.skip_bad_samples allows some"


def _nothing_there(name: str, place: str) -> _MissingValue:
    return _MissingValue(f"{place}: column {name!r} has no value there")


def missing_in(column: pa.Array, *, blank: bool) -> pa.Array:
    """Which rows of a column have no value: none at all, NaN and, where ``blank`` says so, a text without a letter."""
    missing = pc.is_null(column, nan_is_null=True)
    if blank and (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        empty = pc.equal(pc.utf8_trim_whitespace(column), "")
        missing = pc.or_(missing, pc.fill_null(empty, True))
    return missing


def encoded_bytes(array: pa.Array) -> pa.Array:
    """Encoded images or sounds: binary, or the ``bytes`` of a struct as Hugging Face datasets write it."""
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
