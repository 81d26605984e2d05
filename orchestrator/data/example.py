"""A few rows as a source has them, as JSON carries them: what a model is asked with."""

from __future__ import annotations

import base64
import json
from typing import Any

import pyarrow.compute as pc

from orchestrator.data.sources.formats import format_of
from orchestrator.data.sources.index import SourceIndex
from orchestrator.spec.job import JobSpec
from orchestrator.spec.preparations import Conversations, Windows

_ROWS = 2
_LONGEST_TEXT = 500
_MOST_BYTES = 64 << 10


def example_rows(job: JobSpec, index: SourceIndex) -> tuple[dict[str, Any], ...]:
    """The source's first rows, or of series as many as a forecast follows; none where they are large, or hold what
    Python has no value for.
    """
    prepare = job.data.prepare
    series = prepare if isinstance(prepare, Windows) else None
    table = format_of(index.kind).head(index, series.past * 2 if series else _ROWS)
    if series and series.group is not None:
        table = table.filter(pc.equal(table[series.group], table[series.group][0]))
    try:
        found = table.slice(0, series.past if series else _ROWS).to_pylist()
    except (
        OverflowError,
        ValueError,
    ):  # times beyond the year 9999, of columns that nobody may have asked for
        return ()
    if isinstance(prepare, Conversations) and any(_is_cut(row.get(prepare.column)) for row in found):
        return ()
    rows = tuple({name: _plain(value) for name, value in row.items()} for row in found)
    if series and len(rows) < series.past:
        return ()
    return rows if len(json.dumps(rows)) <= _MOST_BYTES else ()


def _is_cut(value: Any) -> bool:
    """Whether a conversation's JSON would lose its end."""
    return isinstance(value, str) and len(value) > _LONGEST_TEXT


def _plain(value: Any) -> Any:
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case str():
            return value[:_LONGEST_TEXT]
        case bool() | int() | float() | None:
            return value
        case list():
            return [_plain(one) for one in value]
        case {"bytes": bytes(encoded)}:  # a picture as Hugging Face writes it
            return _plain(encoded)
        case dict():
            return {name: _plain(one) for name, one in value.items()}
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
