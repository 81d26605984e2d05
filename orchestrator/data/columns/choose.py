"""Which columns become which tensors: decided once, from the job and the first rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pyarrow as pa

from orchestrator.data.columns.arrays import column_array, encoded_bytes, numbers
from orchestrator.data.columns.image_sets import image_layout
from orchestrator.data.columns.layout import TensorLayout, source_column
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.transforms import kind_of
from orchestrator.errors import DataError
from orchestrator.spec.data import DataSpec


def choose_layouts(
    spec: DataSpec, taken: Mapping[str, str], index: SourceIndex, head: pa.Table
) -> tuple[TensorLayout, ...]:
    """The tensors of a source.

    Named columns make the tensors that ``data.columns`` says; a column whose name is that of a tensor which the
    model or a transform takes makes it.

    Args:
        taken: the tensors that the model takes, ``float`` or ``int``.
        head: the source's first rows.

    Raises:
        DataError: a column isn't there, or can't be what it is meant to be.
    """
    chosen: dict[str, tuple[str, ...]] = {}
    starred: set[str] = set()
    for tensor, columns in spec.columns.items():
        names = (columns,) if isinstance(columns, str) else columns
        if "*" in names:
            starred.add(tensor)
        chosen[tensor] = names
    named = {name for names in chosen.values() for name in names}
    transformed = {name for transform in spec.transforms for name in transform.reads}
    for name in head.column_names:
        if name in chosen or name in named:
            continue
        if name in taken or name in transformed:
            chosen[name] = (name,)
            named.add(name)
    layouts = []
    for tensor, names in chosen.items():
        columns = tuple(c for name in names for c in (_numeric(head, named) if name == "*" else (name,)))
        layouts.append(_layout(tensor, columns, spec, taken.get(tensor), index, head, tensor in starred))
    return tuple(layouts)


def _layout(
    tensor: str,
    columns: tuple[str, ...],
    spec: DataSpec,
    taken_as: str | None,
    index: SourceIndex,
    head: pa.Table,
    starred: bool,
) -> TensorLayout:
    if not columns:
        raise DataError(f"data.columns.{tensor}: the data has no numeric column that isn't named elsewhere")
    arrays, there = [], set(head.column_names)
    for name in columns:
        if source_column(name, there) not in there:
            raise DataError(
                f"data.columns.{tensor}: {index.root} has no column {name!r}; it has {_listed(head)}"
            )
        if len(head.schema.get_all_field_indices(name)) > 1:
            raise DataError(
                f"data.columns.{tensor}: {index.root} has several columns {name!r}; give each a name of its own, or"
                " name other columns"
            )
        arrays.append(column_array(head, name))
    read = tuple(dict.fromkeys(source_column(name, there) for name in columns))
    flat = starred or len(columns) > 1 or tensor in ("features", "categories")
    first = encoded_bytes(arrays[0])

    def where(row: int) -> str:
        return index.where(0, row)

    if pa.types.is_binary(first.type) or pa.types.is_large_binary(first.type):
        return image_layout(tensor, columns[0], read, spec, index, computed_with=_computed_with(spec, tensor))
    if any(pa.types.is_string(a.type) or pa.types.is_large_string(a.type) for a in arrays):
        return TensorLayout(
            name=tensor,
            columns=columns,
            read_columns=read,
            kind="text",
            shape=(len(columns),) if flat else (),
            dtype="object",
            carried="object",
            flat=flat,
        )
    if all(pa.types.is_date(a.type) or pa.types.is_timestamp(a.type) for a in arrays):
        return TensorLayout(
            name=tensor,
            columns=columns,
            read_columns=read,
            kind="dates",
            shape=(len(columns),) if flat else (),
            dtype="datetime64[us]",
            carried="datetime64[us]",
            flat=flat,
        )
    encoded = any(t.kind == "encode" and t.tensor == tensor for t in spec.transforms)
    parts = [numbers(array, name, where, missing=True) for array, name in zip(arrays, columns, strict=True)]
    whole = all(part.dtype.kind in "iu" for part in parts)
    if taken_as == "int" and not whole and not encoded and any(_has_fractions(part) for part in parts):
        raise DataError(
            f"data.columns.{tensor}: column {columns[0]!r} of {index.root} has fractions, but"
            f" {tensor!r} takes whole numbers"
            + ("; to predict numbers give objective: {kind: regression}" if tensor == "label" else "")
        )
    dtype: Literal["int64", "float32"] = (
        "int64" if taken_as == "int" or (taken_as is None and whole) else "float32"
    )
    if encoded and whole:
        dtype = "int64"
    width = sum(part[0].size for part in parts)
    carried: str = dtype
    if index.kind in _TYPED and len(parts) == 1 and not _computed_with(spec, tensor):
        carried = _smaller(parts[0], dtype)
    return TensorLayout(
        name=tensor,
        columns=columns,
        read_columns=read,
        kind="numbers",
        shape=(width,) if flat else parts[0].shape[1:],
        dtype=dtype,
        carried=carried,
        flat=flat,
    )


def _has_fractions(values: np.ndarray) -> bool:
    return bool((values[~np.isnan(values)] % 1 != 0).any())


_TYPED = ("parquet", "arrow", "numpy")
"""Formats in which a column has one type throughout."""


def _computed_with(spec: DataSpec, tensor: str) -> bool:
    """Whether a transform computes with the tensor's values, so that it must have them in their final type."""
    return any(tensor in t.reads and not kind_of(t).keeps_type for t in spec.transforms)


def _smaller(values: np.ndarray, dtype: str) -> str:
    """The source's type where it takes less than the final one and holds no missing values."""
    own = values.dtype
    if own.kind in "iu" and own.itemsize < np.dtype(dtype).itemsize and (dtype == "int64" or values.ndim > 1):
        return own.name
    return own.name if own == np.float16 and dtype == "float32" else dtype


def _numeric(head: pa.Table, named: set[str]) -> list[str]:
    return [f.name for f in head.schema if f.name not in named and _is_numeric(f.type)]


def _is_numeric(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.FixedShapeTensorType):
        return True
    if pa.types.is_fixed_size_list(kind):
        return _is_numeric(kind.value_type)
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(test(kind) for test in tests)


_LONG_NAME = 60


def _listed(head: pa.Table) -> str:
    names = [name[:_LONG_NAME] for name in head.column_names]
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
