"""YAML from people, read safely: plain data and the line of each value, or one SpecError.

Reads the event stream of ruamel.yaml's pure parser, whose state machine does not recurse, and builds the data
itself: so there are no tags, no aliases, no duplicate keys, and no constructor that a value could upset. Scalars
follow the YAML 1.2 core schema (``1e-3`` is a number, ``no`` is text).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import SpecError

MAX_BYTES = 256_000
MAX_DEPTH = 64
_MAX_DIGITS = 300

Path = tuple[str | int, ...]

_NULL = re.compile(r"|~|null|Null|NULL")
_TRUE = re.compile(r"true|True|TRUE")
_FALSE = re.compile(r"false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")


@dataclass
class YamlText:
    """Plain data, and where in the text each value stands."""

    data: Any
    positions: dict[Path, tuple[int, int]] = field(default_factory=dict)
    """Path of a value -> line and column (from 1) of its key, or of the value in a list."""


@dataclass
class _Open:
    """A mapping or list whose end has not been read yet."""

    node: dict[str, Any] | list[Any]
    path: Path
    key: str | None = None


def read_yaml(text: str | bytes, origin: str) -> YamlText:
    """Parse one YAML document.

    Raises:
        SpecError: names ``origin``, line and column, for anything that is not plain, finite, unambiguous data.

    """
    # ruamel.yaml loads in 0.1 s; validate, plan and submit need it, --help does not.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError
    from ruamel.yaml.reader import ReaderError

    size = len(text.encode(errors="replace") if isinstance(text, str) else text)
    if size > MAX_BYTES:
        raise SpecError(f"{origin}: {size} bytes is too large for a job file; at most {MAX_BYTES}")
    builder = _Builder(origin)
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            builder.take(event)
    except ReaderError as error:
        raise SpecError(f"{origin}: not text that YAML allows: {error.reason}") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{origin}:{mark.line + 1}:{mark.column + 1}" if mark else origin
        problem = error.problem or error.context or "not valid YAML"
        if "'\\t'" in problem:
            problem = "a tab can't indent here; use spaces"
        raise SpecError(f"{where}: {problem}") from None
    except YAMLError as error:
        raise SpecError(f"{origin}: not valid YAML: {error}") from None
    except (
        UnicodeDecodeError,
        ValueError,
        OverflowError,
        AttributeError,
        IndexError,
        KeyError,
        TypeError,
    ) as error:
        # ruamel.yaml lets these escape on malformed escapes and directives
        raise SpecError(f"{origin}: not valid YAML: {error}") from None
    return builder.result


class _Builder:
    """Puts the values of an event stream where they belong."""

    def __init__(self, origin: str) -> None:
        self.result = YamlText(data=None)
        self._origin = origin
        self._open: list[_Open] = []
        self._documents = 0

    def take(self, event: Any) -> None:
        """The next event. Raises SpecError for what is not plain data."""
        kind = type(event).__name__
        if kind == "DocumentStartEvent":
            self._documents += 1
            if self._documents > 1:
                raise self._error(event, "one document only; remove what follows the second '---'")
        elif kind == "AliasEvent":
            raise self._error(event, f"aliases (*{event.anchor}) are not allowed; write the value out")
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            self._open.pop()
        elif kind in ("ScalarEvent", "MappingStartEvent", "SequenceStartEvent"):
            self._take_value(event, kind)

    def _take_value(self, event: Any, kind: str) -> None:
        if event.anchor:
            raise self._error(event, f"anchors (&{event.anchor}) are not allowed; write the value out")
        if event.tag is not None and str(event.tag) != "!":
            raise self._error(event, f"tags ({event.tag}) are not allowed")
        if self._open and isinstance(self._open[-1].node, dict) and self._open[-1].key is None:
            self._take_key(event, kind)
        elif kind == "ScalarEvent":
            if _is_long_number(event):
                raise self._error(event, "a number this long can't be meant; quote it if it is text")
            self._place(event, _scalar(event))
        elif len(self._open) >= MAX_DEPTH:
            raise self._error(event, f"nested deeper than {MAX_DEPTH} levels")
        else:
            node: dict[str, Any] | list[Any] = {} if kind == "MappingStartEvent" else []
            self._open.append(_Open(node, self._place(event, node)))

    def _take_key(self, event: Any, kind: str) -> None:
        mapping = self._open[-1]
        if kind != "ScalarEvent":
            raise self._error(event, "a key must be plain text")
        key = str(event.value)
        if key in mapping.node:
            raise self._error(event, f"{key!r} is given twice")
        mapping.key = key
        self.result.positions[(*mapping.path, key)] = _position(event)

    def _place(self, event: Any, value: Any) -> Path:
        """Put a value where the innermost open container wants it; returns its path."""
        path: Path = ()
        if not self._open:
            self.result.data = value
        else:
            parent = self._open[-1]
            if isinstance(parent.node, list):
                path = (*parent.path, len(parent.node))
                parent.node.append(value)
            else:
                assert parent.key is not None
                path = (*parent.path, parent.key)
                parent.node[parent.key] = value
                parent.key = None
        self.result.positions.setdefault(path, _position(event))
        return path

    def _error(self, event: Any, problem: str) -> SpecError:
        line, column = _position(event)
        return SpecError(f"{self._origin}:{line}:{column}: {problem}")


def _position(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1


def _is_quoted(event: Any) -> bool:
    return event.style in ("'", '"', "|", ">")


def _is_long_number(event: Any) -> bool:
    text: str = event.value
    return (
        not _is_quoted(event) and len(text) > _MAX_DIGITS and bool(re.fullmatch(r"[-+0-9.eExXa-fA-F]+", text))
    )


def _scalar(event: Any) -> Any:
    text: str = event.value
    if _is_quoted(event):
        return text
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if _INT.fullmatch(text):
        return int(text)
    if _HEX.fullmatch(text):
        return int(text, 16)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INF.fullmatch(text):
        return float(text.replace(".", "", 1))
    if _NAN.fullmatch(text):
        return float("nan")
    return text
