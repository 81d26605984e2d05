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
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.reader import ReaderError

    size = len(text.encode(errors="replace") if isinstance(text, str) else text)
    if size > MAX_BYTES:
        raise SpecError(f"{origin}: {size} bytes is too large for a job file; at most {MAX_BYTES}")
    try:
        return _build(YAML(typ="safe", pure=True).parse(text), origin)
    except ReaderError as error:
        raise SpecError(f"{origin}: not text that YAML allows: {error.reason}") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"{origin}:{mark.line + 1}:{mark.column + 1}" if mark else origin
        problem = getattr(error, "problem", None) or getattr(error, "context", None) or "not valid YAML"
        raise SpecError(f"{where}: {problem}") from None
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


def _build(events: Any, origin: str) -> YamlText:
    result = YamlText(data=None)
    stack: list[_Open] = []
    documents = 0

    def fail(event: Any, problem: str) -> SpecError:
        mark = event.start_mark
        return SpecError(f"{origin}:{mark.line + 1}:{mark.column + 1}: {problem}")

    def place(event: Any, value: Any) -> Path:
        """Put a value where the innermost open container wants it; returns its path."""
        if not stack:
            result.data = value
            path: Path = ()
        else:
            top = stack[-1]
            if isinstance(top.node, list):
                path = (*top.path, len(top.node))
                top.node.append(value)
            else:
                assert top.key is not None
                path = (*top.path, top.key)
                top.node[top.key] = value
                top.key = None
        result.positions.setdefault(path, (event.start_mark.line + 1, event.start_mark.column + 1))
        return path

    for event in events:
        kind = type(event).__name__
        if kind == "DocumentStartEvent":
            documents += 1
            if documents > 1:
                raise fail(event, "one document only; remove what follows the second '---'")
        elif kind == "AliasEvent":
            raise fail(event, f"aliases (*{event.anchor}) are not allowed; write the value out")
        elif kind in ("ScalarEvent", "MappingStartEvent", "SequenceStartEvent"):
            if event.anchor:
                raise fail(event, f"anchors (&{event.anchor}) are not allowed; write the value out")
            if event.tag is not None and str(event.tag) != "!":
                raise fail(event, f"tags ({event.tag}) are not allowed")
            wants_key = stack and isinstance(stack[-1].node, dict) and stack[-1].key is None
            if wants_key:
                top = stack[-1]
                if kind != "ScalarEvent":
                    raise fail(event, "a key must be plain text")
                key = str(event.value)
                if key in top.node:
                    raise fail(event, f"{key!r} is given twice")
                top.key = key
                result.positions[(*top.path, key)] = (event.start_mark.line + 1, event.start_mark.column + 1)
            elif kind == "ScalarEvent":
                place(event, _scalar(event, fail))
            else:
                if len(stack) >= MAX_DEPTH:
                    raise fail(event, f"nested deeper than {MAX_DEPTH} levels")
                node: dict[str, Any] | list[Any] = {} if kind == "MappingStartEvent" else []
                stack.append(_Open(node, place(event, node)))
        elif kind in ("MappingEndEvent", "SequenceEndEvent"):
            stack.pop()
    return result


def _scalar(event: Any, fail: Any) -> Any:
    text: str = event.value
    if event.style in ("'", '"', "|", ">"):
        return text
    if len(text) > _MAX_DIGITS and re.fullmatch(r"[-+0-9.eExXa-fA-F]+", text):
        raise fail(event, "a number this long can't be meant; quote it if it is text")
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
