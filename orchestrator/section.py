"""The base of every section that a person writes, and the units they write in."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, LiteralString, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema


class Section(BaseModel):
    """Frozen, refuses unknown keys, and takes each field's description from the docstring below it."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        ser_json_inf_nan="constants",
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_numbers(cls, given: Any) -> Any:
        """YAML's ``true`` is no 1, and no field counts further than a computer does."""
        if isinstance(given, dict):
            problems = {name: _problem(cls, name, value) for name, value in given.items()}
            found = [
                InitErrorDetails(
                    type=PydanticCustomError("value_error", problem), loc=(name,), input=given[name]
                )
                for name, problem in problems.items()
                if problem
            ]
            if found:
                raise ValidationError.from_exception_data(cls.__name__, found)
        return given


_LARGEST = 2**63 - 1


def _problem(section: type[BaseModel], field: str, value: Any) -> LiteralString:
    for one in value if isinstance(value, list | tuple) else [value]:
        if isinstance(one, bool) and field in section.model_fields and not _takes_bool(section, field):
            return "true and false are no numbers and no text"
        if isinstance(one, int) and not -_LARGEST <= one <= _LARGEST:
            return "the number is larger than anything here can count"
    return ""


@lru_cache(maxsize=4096)
def _takes_bool(section: type[BaseModel], field: str) -> bool:
    return _mentions_bool(section.model_fields[field].annotation)


def _mentions_bool(annotation: Any) -> bool:
    inside = get_args(annotation)
    if annotation in (bool, Any) or any(isinstance(value, bool) for value in inside):
        return True
    return any(_mentions_bool(part) for part in inside)


@dataclass(frozen=True)
class Written:
    """How a text is written: the pattern for programs, the rule for a person, who is told it where the text breaks it."""

    pattern: str
    """A regular expression of the whole text."""
    rule: str
    """What the text is, after "must be"."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "pattern": self.pattern}

    def _check(self, text: str | None) -> str | None:
        if text is not None and not re.search(self.pattern, text):
            raise ValueError(f"{text[:40]!r} must be {self.rule}")
        return text


PathText = Annotated[str, WithJsonSchema({"type": "string", "format": "path"})]
"""A path or URI. In a file of a person's, ``${NAME}`` stands for a variable of ``spec.variables.ALLOWED``."""


def json_number(value: float) -> float | str:
    """The number, or text in its place where JSON has no such number."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def with_json_numbers(value: Any) -> Any:
    """Plain data with each float as ``json_number`` gives it."""
    match value:
        case float():
            return json_number(value)
        case dict():
            return {key: with_json_numbers(one) for key, one in value.items()}
        case list() | tuple():
            return [with_json_numbers(one) for one in value]
    return value


AnyFloat = Annotated[
    float, Field(allow_inf_nan=True), PlainSerializer(json_number, when_used="json", return_type=float | str)
]
"""Any float, also one that is no number: in JSON, which has no such numbers, that one is text."""


_BYTE_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KI": 2**10,
    "MI": 2**20,
    "GI": 2**30,
    "TI": 2**40,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SECOND_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_bytes(value: Any) -> int:
    """``"4GB"``, ``"512MiB"`` or a plain number of bytes, as bytes."""
    if isinstance(value, bool):
        raise ValueError("write a size such as 4GB or 512MiB")
    if isinstance(value, int):
        number: float = value
    else:
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", str(value))
        if not match or match[2].upper() not in _BYTE_UNITS:
            raise ValueError(f"{str(value)[:40]!r} is not a size; write it like 4GB or 512MiB")
        number = float(match[1]) * _BYTE_UNITS[match[2].upper()]
    if number < 0:
        raise ValueError("a size can't be negative")
    return int(number)


def format_bytes(count: float) -> str:
    """A number of bytes in the notation that ``parse_bytes`` reads, to three digits."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{int(count)}B"


def parse_seconds(value: Any) -> float:
    """``"30s"``, ``"10m"``, ``"2h"``, ``"1d"`` or a plain number of seconds, as seconds."""
    if isinstance(value, bool):
        raise ValueError("write a duration such as 30s or 10m")
    if isinstance(value, int | float):
        seconds = float(value)
    else:
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)\s*", str(value))
        if not match:
            raise ValueError(f"{str(value)[:40]!r} is not a duration; write it like 30s, 10m or 2h")
        seconds = float(match[1]) * _SECOND_UNITS[match[2]]
    if seconds < 0:
        raise ValueError("a duration can't be negative")
    return seconds


Bytes = Annotated[
    int,
    BeforeValidator(parse_bytes),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}], "examples": ["4GB"]}),
]
"""A size: a number of bytes, or text such as ``4GB`` (10^9) or ``512MiB`` (2^20)."""

Seconds = Annotated[
    float,
    BeforeValidator(parse_seconds),
    PlainSerializer(lambda s: s, return_type=float),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string"}], "examples": ["10m"]}),
]
"""A duration: a number of seconds, or text such as ``30s``, ``10m``, ``2h``."""
