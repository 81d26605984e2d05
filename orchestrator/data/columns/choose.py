"""Which columns become which tensors: decided once, from the job and the first rows."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from orchestrator.data.columns.arrays import column_array, encoded_bytes, number_type, numbers
from orchestrator.data.columns.audio import is_audio
from orchestrator.data.columns.audio_sets import LENGTH, audio_layout, length_layout
from orchestrator.data.columns.image_sets import image_layout
from orchestrator.data.columns.layout import TensorLayout, source_column
from orchestrator.data.mends import mend_of
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.transforms import kind_of
from orchestrator.errors import DataError, SpecError
from orchestrator.spec.data import DataSpec


@dataclass(frozen=True)
class Chosen:
    """The columns of one tensor."""

    columns: tuple[str, ...]
    flat: bool
    """Laid end to end, though it may be one."""


def choose_columns(
    spec: DataSpec, taken: Mapping[str, str], index: SourceIndex, head: pa.Table
) -> dict[str, Chosen]:
    """Which columns make which tensor, as the first training source has them; all other data goes by these names.

    Named columns make the tensors that ``data.columns`` says; a column whose name is that of a tensor which the
    model or a transform takes makes it.

    Args:
        taken: the tensors that the model takes, ``float`` or ``int``.
        head: the source's first rows.

    Raises:
        DataError: ``"*"`` finds no column.
    """
    chosen = {
        tensor: (columns,) if isinstance(columns, str) else columns
        for tensor, columns in spec.columns.items()
    }
    named = {name for names in chosen.values() for name in names}
    transformed = {name for transform in spec.transforms for name in transform.reads}
    for name in head.column_names:
        if name in chosen or name in named:
            continue
        if name in taken or name in transformed:
            chosen[name] = (name,)
            named.add(name)
    found = {}
    for tensor, names in chosen.items():
        columns = tuple(c for name in names for c in (_numeric(head, named) if name == "*" else (name,)))
        if not columns:
            raise DataError(
                f"data.columns.{tensor}: {index.root} has no column of numbers that isn't named elsewhere; it has"
                f" {_listed(head)}{_mends(head, named, tensor)}"
            )
        flat = "*" in names or len(columns) > 1 or tensor in ("features", "categories")
        found[tensor] = Chosen(columns, flat)
    return found


def layouts_of(
    chosen: Mapping[str, Chosen],
    spec: DataSpec,
    taken: Mapping[str, str],
    index: SourceIndex,
    head: pa.Table,
    may_lack: Container[str] = (),
) -> tuple[TensorLayout, ...]:
    """How a source's columns make the chosen tensors.

    Args:
        may_lack: tensors that the objective takes with values missing.

    Raises:
        DataError: a column isn't there, or can't be what it is meant to be.
    """
    layouts = tuple(
        _layout(tensor, one, spec, taken.get(tensor), index, head, gaps=tensor in may_lack)
        for tensor, one in chosen.items()
    )
    padded = [one for one in layouts if one.sound is not None and one.sound.pads]
    return (*layouts, length_layout(padded[0])) if padded and LENGTH not in chosen else layouts


def one_carried_type(sources: Sequence[tuple[TensorLayout, ...]]) -> list[tuple[TensorLayout, ...]]:
    """Layouts of several sources, made to travel alike: in the first one's type, or the full one where the smaller types
    of sources differ.
    """
    carried: dict[str, str] = {}
    for layout in sources[0]:
        others = [one for layouts in sources for one in layouts if one.name == layout.name]
        small = any(np.dtype(one.carried).itemsize < np.dtype(one.dtype).itemsize for one in others)
        differ = len({one.carried for one in others}) > 1
        carried[layout.name] = layout.dtype if small and differ else layout.carried
    return [
        tuple(one.model_copy(update={"carried": carried.get(one.name, one.carried)}) for one in layouts)
        for layouts in sources
    ]


def _layout(
    tensor: str,
    one: Chosen,
    spec: DataSpec,
    taken_as: str | None,
    index: SourceIndex,
    head: pa.Table,
    *,
    gaps: bool,
) -> TensorLayout:
    columns = one.columns
    there = set(head.column_names)
    arrays = [_column(tensor, name, index, head, there) for name in columns]
    read = tuple(dict.fromkeys(source_column(name, there) for name in columns))
    first = encoded_bytes(arrays[0])
    if pa.types.is_binary(first.type) or pa.types.is_large_binary(first.type):
        if index.kind == "audio" or any(is_audio(value) for value in first.to_pylist()):
            return audio_layout(tensor, columns[0], read, spec, index)
        _refuse_resample(spec, tensor)
        return image_layout(tensor, columns[0], read, spec, index, computed_with=_computed_with(spec, tensor))
    _refuse_resample(spec, tensor)
    plain = TensorLayout(
        name=tensor,
        columns=columns,
        read_columns=read,
        kind="numbers",
        shape=(len(columns),) if one.flat else (),
        gaps=gaps or _fills_in(spec, tensor),
        flat=one.flat,
    )
    encoded = any(t.kind == "encode" and t.tensor == tensor for t in spec.transforms)
    kinds = [array.type for array in arrays]
    as_text = encoded and (
        _fills_with_words(spec, tensor) or _no_common_type([number_type(k) for k in kinds])
    )
    if as_text or any(pa.types.is_string(kind) or pa.types.is_large_string(kind) for kind in kinds):
        return plain.model_copy(update={"kind": "text", "dtype": "object", "carried": "object"})
    if all(pa.types.is_date(kind) or pa.types.is_timestamp(kind) for kind in kinds):
        return plain.model_copy(
            update={"kind": "dates", "dtype": "datetime64[us]", "carried": "datetime64[us]"}
        )

    def where(row: int) -> str:
        return index.where(0, row)

    parts = [numbers(array, name, where, missing=True) for array, name in zip(arrays, columns, strict=True)]
    shape = (sum(part[0].size for part in parts),) if one.flat else parts[0].shape[1:]
    types = [np.dtype(kind.to_pandas_dtype()) for kind in map(number_type, kinds) if kind is not None]
    if encoded:
        dtype, carried = "int64", _exact(types, plain.gaps)
    else:
        dtype, carried = _number_types(plain, spec, taken_as, index, parts, types)
    return plain.model_copy(update={"shape": shape, "dtype": dtype, "carried": carried})


def _refuse_resample(spec: DataSpec, tensor: str) -> None:
    if any(one.kind == "resample" and one.tensor == tensor for one in spec.transforms):
        raise SpecError(
            f"data.transforms: resample names {tensor!r}, which holds no encoded sounds (WAV, FLAC, OGG), so nothing says"
            " what rate it has"
        )


def _column(tensor: str, name: str, index: SourceIndex, head: pa.Table, there: Container[str]) -> pa.Array:
    """A column of the first rows. Raises DataError where there is none of the name, or several."""
    if source_column(name, there) not in there:
        raise DataError(f"data.columns.{tensor}: {index.root} has no column {name!r}; it has {_listed(head)}")
    if len(head.schema.get_all_field_indices(name)) > 1:
        raise DataError(
            f"data.columns.{tensor}: {index.root} has several columns {name!r}; give each a name of its own, or"
            " name other columns"
        )
    return column_array(head, name)


def _number_types(
    layout: TensorLayout,
    spec: DataSpec,
    taken_as: str | None,
    index: SourceIndex,
    parts: Sequence[np.ndarray],
    types: Sequence[np.dtype],
) -> tuple[str, str]:
    """Of numbers that no ``encode`` takes: the type that the loop gets, and that in which they are carried."""
    whole, computed = all(kind.kind in "iu" for kind in types), _computed_with(spec, layout.name)
    if taken_as == "int" and not whole:
        _refuse_fractions(layout.name, layout.columns, parts, index)
    dtype = "int64" if taken_as == "int" or (taken_as is None and whole and not computed) else "float32"
    if computed and dtype == "float32":
        return dtype, np.result_type(np.float32, *types).name
    if index.kind in _TYPED and len(parts) == 1 and not computed and not layout.gaps:
        return dtype, _smaller(types[0], parts[0].ndim, dtype)
    return dtype, dtype


def _fills_in(spec: DataSpec, tensor: str) -> bool:
    """Whether missing values are filled in: in the tensor, or in one that it is joined to."""
    names = {tensor}
    for transform in spec.transforms:
        if transform.kind == "join" and not names.isdisjoint(transform.append):
            names.add(transform.tensor)
        if transform.kind == "impute" and transform.tensor in names:
            return True
    return False


def _fills_with_words(spec: DataSpec, tensor: str) -> bool:
    return any(
        t.kind == "impute" and t.tensor == tensor and (t.by == "category" or isinstance(t.value, str))
        for t in spec.transforms
    )


def _no_common_type(kinds: Sequence[pa.DataType | None]) -> bool:
    """Whether columns have no one type of numbers that holds each of their values exactly."""
    families = {
        "text"
        if kind is None
        else "float"
        if pa.types.is_floating(kind)
        else "uint64"
        if kind == pa.uint64()
        else "int"
        for kind in kinds
    }
    return len(families) > 1


def _exact(types: Sequence[np.dtype], gaps: bool) -> str:
    """The type in which values are told apart as in the source."""
    if gaps or types[0].kind == "f":
        return "float64"
    return "uint64" if types[0] == np.uint64 else "int64"


def _refuse_fractions(
    tensor: str, columns: Sequence[str], parts: Sequence[np.ndarray], index: SourceIndex
) -> None:
    for name, part in zip(columns, parts, strict=True):
        if _has_fractions(part):
            raise DataError(
                f"data.columns.{tensor}: column {name!r} of {index.root} has fractions, but {tensor!r} takes whole numbers"
                + ("; to predict numbers give objective: {kind: regression}" if tensor == "label" else "")
            )


def _has_fractions(values: np.ndarray) -> bool:
    return bool((values[~np.isnan(values)] % 1 != 0).any())


_TYPED = ("parquet", "arrow", "numpy")
"""Formats in which a column has one type throughout."""


def _computed_with(spec: DataSpec, tensor: str) -> bool:
    """Whether a transform computes with the tensor's values, so that it must have them in their final type."""
    return any(tensor in t.reads and not kind_of(t).keeps_type for t in spec.transforms)


def _smaller(own: np.dtype, dimensions: int, dtype: str) -> str:
    """The source's type where it takes less than the final one and holds no missing values."""
    if own.kind in "iu" and own.itemsize < np.dtype(dtype).itemsize and (dtype == "int64" or dimensions > 1):
        return own.name
    return own.name if own == np.float16 and dtype == "float32" else dtype


def _mends(head: pa.Table, named: set[str], tensor: str) -> str:
    """What makes numbers of the first column that is left."""
    field = next((field for field in head.schema if field.name not in named), None)
    return "" if field is None else f"; {field.name!r} holds {mend_of(field.name, field.type, tensor)}"


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
