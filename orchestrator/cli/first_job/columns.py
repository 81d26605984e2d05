"""Column by column, what a table holds and what a model could do with it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.columns.audio import is_audio
from orchestrator.errors import SpecError
from orchestrator.registry import suggest_of

Role = Literal["number", "category", "date", "text", "image", "sound", "left"]

_DATE_FORMATS = (
    "%Y-%m-%d",
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%dT%H:%M:%S",
    "%d.%m.%Y",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M",
    "%Y/%m/%d",
    "%d-%m-%Y",
)
_LABELS = [
    "label",
    "labels",
    "target",
    "class",
    "y",
    "outcome",
    "response",
    "species",
    "diagnosis",
    "survived",
    "churn",
    "churned",
    "fraud",
    "default",
    "sentiment",
    "price",
    "quality",
]
"""Names that say a column is what is to be predicted, the surest first."""
_COUNTED = ("csv", "jsonl", "parquet")
"""Sources whose greatest label is known without training on them."""
NAME_SAYS_SO = "its name says so"
"""Why a column is what is to be predicted, where that is no guess."""
_MOST_CATEGORIES = 1000
_MOST_CLASSES = 50
_FEW = 16
_TEXT_WORDS = 6
"""Words that a text has on average; fewer are names or categories."""


@dataclass(frozen=True)
class Column:
    """One column."""

    name: str
    kind: pa.DataType
    role: Role
    missing: int
    distinct: int
    reason: str = ""
    """Why it is left out."""
    format: str | None = None
    """Of dates that are text."""
    hours: bool = False
    """Dates with a time of day."""


def look_at(table: pa.Table) -> list[Column]:
    """All columns, in order."""
    return [_column(field.name, table.column(place)) for place, field in enumerate(table.schema)]


def _column(name: str, values: pa.ChunkedArray) -> Column:
    kind = values.type
    if pa.types.is_dictionary(kind):
        values = pa.chunked_array([chunk.dictionary_decode() for chunk in values.chunks])
        kind = values.type
    if _is_encoded(kind):
        return Column(name, kind, "sound" if holds_sounds(values) else "image", values.null_count, 0)
    if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
        return _of_lists(name, values)
    distinct = len(pc.unique(values.drop_null()))
    role, reason, form, hours = _role(name, values, distinct)
    return Column(name, kind, role, values.null_count, distinct, reason, form, hours)


def _is_encoded(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
    )


def holds_sounds(values: pa.ChunkedArray) -> bool:
    """Whether a column is of encoded sounds, by the first that are there."""
    if not _is_encoded(values.type):
        return False
    return any(is_audio(encoded_in(value)) for value in values.drop_null().slice(0, _FEW).to_pylist())


def encoded_in(value: Any) -> bytes | None:
    """The bytes of an encoded image or sound, which may stand in a struct as Hugging Face writes it."""
    found: bytes | None = value["bytes"] if isinstance(value, dict) else value
    return found


def _of_lists(name: str, values: pa.ChunkedArray) -> Column:
    kind = values.type
    if isinstance(kind, pa.FixedShapeTensorType) or (
        pa.types.is_fixed_size_list(kind) and not pa.types.is_nested(kind.value_type)
    ):
        return Column(name, kind, "number", values.null_count, len(values))
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_number(kind.value_type):
        lengths = pc.unique(pc.list_value_length(values).drop_null())
        if len(lengths) == 1:
            return Column(name, kind, "number", values.null_count, len(values))
        return Column(name, kind, "left", 0, 0, "its lists have different lengths")
    return Column(name, kind, "left", 0, 0, f"it is {_short(kind)}, which no transform turns into numbers")


def _role(name: str, values: pa.ChunkedArray, distinct: int) -> tuple[Role, str, str | None, bool]:
    kind, there = values.type, values.drop_null()
    if not len(there):
        return "left", "it has no values", None, False
    if distinct == 1 and not values.null_count:
        return "left", f"it is {there[0].as_py()!r} everywhere", None, False
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return "date", "", None, _has_hours(there)
    if pa.types.is_integer(kind):
        if _counts_rows(name, values, distinct):
            return "left", "it numbers the rows", None, False
        return "number", "", None, False
    if _is_number(kind):
        return "number", "", None, False
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return "left", f"it is {_short(kind)}, which no transform turns into numbers", None, False
    if (form := _date_format(there)) is not None:
        return "date", "", form, "%H" in form
    words = pc.mean(pc.count_substring(there, " ")).as_py() + 1
    if words >= _TEXT_WORDS and distinct > len(there) / 2:
        return "text", "", None, False
    if distinct > min(_MOST_CATEGORIES, max(2, len(there) / 2)):
        return "left", f"nearly all of its words differ ({distinct:,} of {len(there):,})", None, False
    return "category", "", None, False


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(test(kind) for test in tests)


def _counts_rows(name: str, values: pa.ChunkedArray, distinct: int) -> bool:
    if values.null_count or distinct < len(values) or len(values) < 3:
        return False
    if re.fullmatch(
        r"(.*[_ .-])?(id|ids|index|idx|key|nr|no|number|row|unnamed.*|.*\(column 1\))|.*Id", name, re.I
    ):
        return True
    steps = pc.pairwise_diff(values.combine_chunks().cast(pa.int64(), safe=False)).drop_null()
    return bool(pc.all(pc.equal(steps, 1)).as_py()) and values[0].as_py() in (0, 1)


def _has_hours(there: pa.ChunkedArray) -> bool:
    return pa.types.is_timestamp(there.type) and bool(
        pc.any(pc.or_(pc.greater(pc.hour(there), 0), pc.greater(pc.minute(there), 0))).as_py()
    )


def _date_format(texts: pa.ChunkedArray) -> str | None:
    """The first format that all texts are dates of."""
    first = texts[0].as_py()
    if not re.match(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}", first):
        return None
    for form in _DATE_FORMATS:
        if not pc.strptime(texts, format=form, unit="us", error_is_null=True).null_count:
            return form
    return None


def _short(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) < 40 else text[:37] + "..."


def guess_label(columns: Sequence[Column], rows: int, asked: str | None) -> tuple[Column | None, str]:
    """What is to be predicted, and why; None where nothing looks like it.

    Raises:
        SpecError: there is no such column, or it can't be predicted.
    """
    if asked is not None:
        found = next((one for one in columns if one.name == asked), None)
        if found is None:
            raise SpecError(
                f"--label {asked}: no such column{suggest_of(asked, [one.name for one in columns])}"
            )
        if not _may_be_label(found, rows):
            why = found.reason or f"it holds {found.role}s"
            raise SpecError(f"--label {asked}: can't be predicted: {why}")
        return found, "as --label says"
    fit = [one for one in columns if _may_be_label(one, rows)]
    for name in _LABELS:
        for one in fit:
            if one.name.lower() == name:
                return one, NAME_SAYS_SO
    for name in _LABELS[:4]:
        for one in fit:
            if re.search(rf"(^|[_ .-]){name}([_ .-]|$)", one.name, re.I):
                return one, NAME_SAYS_SO
    guess = "a guess, give --label to name another"
    if columns and columns[-1] in fit:
        return columns[-1], f"it is the last column: {guess}"
    if columns and columns[0] in fit and columns[0].role == "category":
        return columns[0], f"it is the first column and holds words: {guess}"
    return None, ""


def _may_be_label(column: Column, rows: int) -> bool:
    if column.role == "category":
        return column.distinct <= max(2, min(_MOST_CATEGORIES, rows // 3))
    if column.role == "left" and column.reason == "it numbers the rows":
        return False
    return (
        column.role == "number"
        and not pa.types.is_nested(column.kind)
        and column.distinct > 1
        and not isinstance(column.kind, pa.BaseExtensionType)
    )


@dataclass(frozen=True)
class Answer:
    """How a label is learned."""

    objective: str
    encode: bool
    words: str
    rare: bool = False
    """A class has so few rows that all of them may be held out."""


def answer_of(label: Column, values: pa.ChunkedArray, source: str) -> Answer:
    """Classes or numbers, by the values.

    Args:
        source: its kind; of some the number of classes is known only where the label is encoded.
    """
    there = values.drop_null()
    counts = pc.value_counts(there)
    rarest = min(count.as_py() for count in counts.field("counts")) if len(counts) else 0
    classes = f"{label.distinct} classes"
    if label.role == "category":
        return Answer("classification", True, classes, rarest < 10)
    if pa.types.is_boolean(label.kind):
        return Answer("classification", source not in _COUNTED, "2 classes: false is 0, true is 1")
    whole = pa.types.is_integer(label.kind) or bool(
        pc.all(pc.equal(pc.floor(there.cast(pa.float64())), there.cast(pa.float64()))).as_py()
    )
    if not whole or label.distinct > min(_MOST_CLASSES, max(2, len(there) // 10)):
        return Answer(
            "regression", False, "numbers, so regression; for classes set objective: {kind: classification}"
        )
    count_known = source in _COUNTED
    known = sorted(int(value) for value in pc.unique(there).to_pylist())
    numbered = known == list(range(len(known))) and pa.types.is_integer(label.kind)
    more = (
        ""
        if numbered
        else f", of the values {', '.join(map(str, known[:6]))}{' ...' if len(known) > 6 else ''}"
    )
    return Answer(
        "classification", not (numbered and count_known), classes + more, rarest < 10 and not numbered
    )
