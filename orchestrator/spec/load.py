"""Job files and profiles, from text to frozen models; each error with its line, its field and a suggestion."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from orchestrator.errors import NotFoundError, SpecError
from orchestrator.registry import nearest, suggest, suggest_of
from orchestrator.spec.job import JobSpec
from orchestrator.spec.profile import ClusterProfile
from orchestrator.spec.schema import described, fields_at, is_path_at, json_schema, kinds_at
from orchestrator.spec.variables import expand
from orchestrator.spec.yaml_text import Path, YamlText, read_yaml

Model = TypeVar("Model", bound=BaseModel)

_SHIPPED_PROFILES = FilePath(__file__).parent.parent / "clusters" / "profiles"

_BRANCHES = ("tuple_type", "list_type", "string_type", "model_type")
"""What pydantic says of a value that is none of a union's other branches."""

_IS_NOT = {
    "int_parsing": "is no whole number",
    "int_type": "is no whole number",
    "int_from_float": "is no whole number",
    "float_parsing": "is no number",
    "float_type": "is no number",
    "bool_parsing": "is neither true nor false",
    "bool_type": "is neither true nor false",
    "string_type": "is no text",
    "tuple_type": "is no list",
    "list_type": "is no list",
    "dict_type": "is no mapping of fields",
    "model_type": "is no mapping of fields",
}
"""Type of pydantic's error -> what the value is not, in words of a job file."""


def home() -> FilePath:
    """Where runs, prepared data and the MLflow store live: ``TRAINWRIGHT_HOME``, else the user's data folder."""
    if chosen := os.environ.get("TRAINWRIGHT_HOME"):
        return FilePath(chosen).expanduser().resolve()
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return FilePath(data).expanduser() / "trainwright"


def config_dir() -> FilePath:
    """Where a person's own profiles live, in ``clusters/``."""
    return FilePath(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "trainwright"


def load_spec(source: str | os.PathLike[str] | Mapping[str, Any], overrides: Iterable[str] = ()) -> JobSpec:
    """A job from a YAML file or from a mapping, with ``field.path=value`` overrides put on top.

    Raises:
        NotFoundError: no such file.
        SpecError: all that is wrong with it, one line each.

    """
    if isinstance(source, Mapping):
        text, origin = YamlText(data=deepcopy(dict(source))), "job"
    else:
        text, origin = _read_file(FilePath(source)), str(source)
    for override in overrides:
        _apply_override(text, override)
    return _validate(JobSpec, text, origin)


def load_profile(name_or_path: str) -> ClusterProfile:
    """A cluster by name (a person's own first, then the shipped ones) or by file.

    Raises:
        NotFoundError: no such profile, with those that there are.
        SpecError: all that is wrong with it, one line each.

    """
    if "/" in name_or_path or name_or_path.endswith((".yaml", ".yml")):
        path = FilePath(name_or_path)
    else:
        path = next(
            (file for file in _profile_files() if file.stem == name_or_path),
            FilePath(),
        )
        if path == FilePath():
            known = sorted({file.stem for file in _profile_files()})
            raise NotFoundError(
                f"no cluster named {name_or_path!r}{suggest(name_or_path, known)}"
                f" (own profiles go to {config_dir() / 'clusters'})"
            )
    return _validate(ClusterProfile, _read_file(path), str(path))


def list_profiles() -> list[tuple[FilePath, ClusterProfile | SpecError]]:
    """Every profile by file, or what is wrong with it; a person's own hide shipped ones of the same name."""
    found: dict[str, tuple[FilePath, ClusterProfile | SpecError]] = {}
    for file in _profile_files():
        if file.stem not in found:
            try:
                found[file.stem] = file, _validate(ClusterProfile, _read_file(file), str(file))
            except SpecError as error:
                found[file.stem] = file, error
    return [found[name] for name in sorted(found)]


def _profile_files() -> list[FilePath]:
    folders = [config_dir() / "clusters", _SHIPPED_PROFILES]
    return [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.yaml"))]


def _read_file(path: FilePath) -> YamlText:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise SpecError(f"{path}: can't be read: {error.strerror}") from None
    try:
        decoded = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not UTF-8 text (byte {error.start})") from None
    return read_yaml(decoded, str(path))


def _apply_override(text: YamlText, override: str) -> None:
    dotted, equals, value = override.partition("=")
    parts = dotted.strip().split(".")
    if not equals or not all(parts):
        raise SpecError(f"--set {override}: write it as field.path=value")
    if not isinstance(text.data, dict):
        return
    node: Any = text.data
    path: Path = ()
    for part in parts[:-1]:
        key: str | int = int(part) if isinstance(node, list) and part.isdigit() else part
        path = (*path, key)
        if isinstance(node, list) and isinstance(key, int) and key < len(node):
            node = node[key]
        elif isinstance(node, dict):
            if not isinstance(node.get(key), dict | list):
                node[key] = {}
            node = node[key]
        else:
            raise SpecError(f"--set {override}: {'.'.join(map(str, path))} is not a section")
    last: str | int = int(parts[-1]) if isinstance(node, list) and parts[-1].isdigit() else parts[-1]
    if isinstance(node, list) and not (isinstance(last, int) and last < len(node)):
        raise SpecError(f"--set {override}: the list has {len(node)} entries, counted from 0")
    node[last] = read_yaml(value, f"--set {dotted}").data
    text.positions[(*path, last)] = (0, 0)


def _validate(model: type[Model], text: YamlText, origin: str) -> Model:
    if not isinstance(text.data, dict):
        raise SpecError(f"{origin}:1:1: a mapping of fields is expected, not {type(text.data).__name__}")
    _expand_paths(model, text, origin)
    try:
        return model.model_validate(text.data)
    except ValidationError as error:
        raise SpecError("\n".join(_error_lines(model, error, text, origin))) from None


def _expand_paths(model: type[BaseModel], text: YamlText, origin: str) -> None:
    """Put the values of ``${NAME}`` into the fields that are paths; elsewhere it is text like any other."""

    def walk(node: Any, path: Path) -> None:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            place = (*path, key)
            if isinstance(value, dict | list):
                walk(value, place)
            elif isinstance(value, str) and "${" in value and is_path_at(model, place, text.data):
                try:
                    node[key] = expand(value, os.environ)
                except SpecError as error:
                    raise SpecError(f"{_where(place, text, origin)}{error}") from None

    walk(text.data, ())


def _error_lines(model: type[BaseModel], error: ValidationError, text: YamlText, origin: str) -> list[str]:
    problems = [(_data_path(detail, text.data), detail) for detail in error.errors(include_url=False)]
    lines: dict[str, None] = {}
    for path, detail in problems:
        of_another_branch = detail["type"] in _BRANCHES and any(
            other[: len(path)] == path and (len(other) > len(path) or its["type"] not in _BRANCHES)
            for other, its in problems
        )
        if not of_another_branch:
            lines[f"{_where(path, text, origin)}{_sentence(model, path, detail, text.data)}"] = None
    return list(lines)


def _data_path(detail: Any, data: Any) -> Path:
    """Where in the data an error is: pydantic's location without the names of union branches."""
    path: Path = ()
    for index, part in enumerate(detail["loc"]):
        is_last = index == len(detail["loc"]) - 1
        if (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        ):
            data = data[part]
            path = (*path, part)
        elif is_last and detail["type"] == "missing":
            path = (*path, part)
    return path


def _where(path: Path, text: YamlText, origin: str) -> str:
    known = path
    while known and known not in text.positions:
        known = known[:-1]
    line, column = text.positions.get(known, (0, 0))
    place = (
        f"{origin}:{line}:{column}" if line else ("--set" if known and known in text.positions else origin)
    )
    name = ".".join(str(part) for part in path)
    return f"{place}: {name}: " if name else f"{place}: "


def _sentence(model: type[BaseModel], path: Path, detail: Any, data: Any) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    given = detail.get("input")
    if kind == "extra_forbidden":
        names = [name for name in fields_at(model, path[:-1], data) if name != path[-1]]
        return f"unknown field{suggest(str(path[-1]), names)}"
    if kind == "missing":
        return f"required, but not given{_meaning(model, path, data)}"
    if kind == "union_tag_not_found":
        tag = context["discriminator"].strip("'")
        kinds = ", ".join(kinds_at(model, path, data))
        return f"the field {tag!r} must say which {tag} it is: {kinds}"
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"{context['discriminator'].strip(chr(39))} {context['tag']!r} is not known{suggest_of(context['tag'], tags)}"
    if kind == "literal_error":
        choices = [choice.strip(" '") for choice in context["expected"].replace(" or ", ", ").split(",")]
        return f"{_shown(given)} is not one of {', '.join(choices)}{nearest(str(given), choices)}"
    if kind in _IS_NOT:
        return f"{_shown(given)} {_IS_NOT[kind]}"
    message: str = detail["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        return message
    return f"{message[0].lower()}{message[1:]}, not {_shown(given)}"


def _meaning(model: type[BaseModel], path: Path, data: Any) -> str:
    """A field's first sentence, after a colon; empty where the place has no such field."""
    field = fields_at(model, path[:-1], data).get(str(path[-1]))
    said = described(field, json_schema(model)).replace("``", "") if field else ""
    first = " ".join(said.split()).split(". ")[0].rstrip(".")
    return f": {first[:1].lower()}{first[1:]}" if first else ""


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
