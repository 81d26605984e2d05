"""What ``"*"`` takes of a source's columns and what it leaves: for ``plan`` to say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from orchestrator.data.columns.layout import TensorLayout, source_column

_MOST_NAMES = 30


def star_notes(
    columns: Mapping[str, str | Sequence[str]], layouts: Sequence[TensorLayout], schema: pa.Schema
) -> tuple[str, ...]:
    """Sentences on each tensor that is ``"*"``: the columns that it takes, and those that no tensor does, with why and
    what would mend it. Nothing for a job that names its columns.

    Args:
        columns: ``data.columns``.
        layouts: as chosen.
        schema: the source's.
    """
    starred = [
        name for name, asked in columns.items() if "*" in ((asked,) if isinstance(asked, str) else asked)
    ]
    if not starred:
        return ()
    there = set(schema.names)
    used = {source_column(name, there) for layout in layouts for name in layout.columns}
    left: dict[str, list[str]] = {}
    for field in schema:
        if field.name not in used:
            left.setdefault(_mend(field, starred[0]), []).append(field.name)
    taken = (
        f'data.columns.{one.name}: "*" takes {len(one.columns):,} columns: {_listed(one.columns)}'
        for one in layouts
        if one.name in starred
    )
    return (*taken, *_left(left, starred[0]))


def _left(left: Mapping[str, Sequence[str]], tensor: str) -> Iterator[str]:
    for reason, names in left.items():
        yield f'data.columns.{tensor}: "*" leaves out {_listed(names)}: {reason}'


def _mend(field: pa.Field, tensor: str) -> str:
    """Why a column is no number, and what makes one of it."""
    kind, name = field.type, field.name
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return (
            f"words; take them as categories: [{name}] with {{kind: encode, tensor: categories}} under data.transforms,"
            " or, where they are numbers, give the source its decimal and thousands"
        )
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return (
            f"dates; take them as dates: [{name}] with {{kind: date, tensor: dates}} and {{kind: join, tensor: {tensor},"
            " append: [dates]} under data.transforms"
        )
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return f"bytes; where they are images, image: {name}"
    if pa.types.is_struct(kind):
        inner = kind.field(0).name if kind.num_fields else "..."
        return f"a struct; name the field that is meant, e.g. {name}.{inner}"
    if pa.types.is_null(kind):
        return "no values in the first rows"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"lists; where all are of one length, name it: {tensor}: [{name}]"
    return f"{kind}, which no transform turns into numbers; write it as numbers"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    return shown + (f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else "")
