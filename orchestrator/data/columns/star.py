"""What ``"*"`` takes of a source's columns and what it leaves: for ``plan`` to say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from orchestrator.data.columns.layout import TensorLayout, source_column
from orchestrator.data.mends import mend_of

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
    starred = starred_of(columns)
    if not starred:
        return ()
    there = set(schema.names)
    used = {source_column(name, there) for layout in layouts for name in layout.columns}
    left: dict[str, list[str]] = {}
    for field in schema:
        if field.name not in used:
            left.setdefault(mend_of(field.name, field.type, starred[0]), []).append(field.name)
    taken = (
        f'data.columns.{one.name}: "*" takes {len(one.columns):,} of {len(schema):,} columns: {_listed(one.columns)}'
        for one in layouts
        if one.name in starred
    )
    return (*taken, *_left(left, starred[0]))


def starred_of(columns: Mapping[str, str | Sequence[str]]) -> list[str]:
    """The tensors of ``data.columns`` that take ``"*"``."""
    return [name for name, asked in columns.items() if "*" in ((asked,) if isinstance(asked, str) else asked)]


def series_notes(series: Sequence[str], beside: Sequence[str | None], schema: pa.Schema) -> tuple[str, ...]:
    """The same of ``"*"`` in ``data.prepare``, which takes series.

    Args:
        beside: further columns that are read.
    """
    left: dict[str, list[str]] = {}
    for field in schema:
        if field.name not in series and field.name not in beside:
            left.setdefault(str(field.type), []).append(field.name)
    return (
        f'data.prepare.columns: "*" takes {len(series):,} of {len(schema):,} columns: {_listed(series)}',
        *(
            f'data.prepare.columns: "*" leaves out {_listed(names)}: {kind}, not numbers; write them as numbers'
            for kind, names in left.items()
        ),
    )


def _left(left: Mapping[str, Sequence[str]], tensor: str) -> Iterator[str]:
    for reason, names in left.items():
        yield f'data.columns.{tensor}: "*" leaves out {_listed(names)}: {reason}'


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMES])
    return shown + (f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else "")
