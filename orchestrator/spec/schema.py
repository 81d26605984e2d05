"""The JSON Schema of what a person writes, and answers drawn from it: field lists and ``explain``."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel

from orchestrator.errors import NotFoundError
from orchestrator.registry import suggest


@cache
def json_schema(model: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) with each field's description and default."""
    schema = model.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema


def _resolve(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        node = root["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


def branches(node: dict[str, Any], root: dict[str, Any], data: Any = None) -> list[dict[str, Any]]:
    """The object schemas that a value here may follow; only the one that the data's tag names, where it names one."""
    node = _resolve(node, root)
    if (discriminator := node.get("discriminator")) and isinstance(data, dict):
        ref = discriminator["mapping"].get(data.get(discriminator["propertyName"]))
        if ref:
            return [_resolve({"$ref": ref}, root)]
    found = [node] if "properties" in node else []
    for key in ("anyOf", "oneOf", "allOf"):
        for part in node.get(key, ()):
            found += branches(part, root, data)
    if not found and isinstance(node.get("items"), dict):
        found = branches(node["items"], root, data)
    return found


def fields_at(model: type[BaseModel], path: tuple[str | int, ...], data: Any) -> dict[str, dict[str, Any]]:
    """Name -> schema of the fields that the section at ``path`` may have."""
    root = json_schema(model)
    nodes = branches(root, root, data)
    for part in path:
        if isinstance(part, int):
            data = data[part] if isinstance(data, list) and part < len(data) else None
            continue
        data = data.get(part) if isinstance(data, dict) else None
        nodes = [
            inner
            for node in nodes
            if part in node.get("properties", {})
            for inner in branches(node["properties"][part], root, data)
        ]
    return {name: field for node in nodes for name, field in node.get("properties", {}).items()}


def is_path_at(model: type[BaseModel], path: tuple[str | int, ...], data: Any) -> bool:
    """Whether the field at ``path`` is a path or URI."""
    field = fields_at(model, path[:-1], data).get(str(path[-1]), {})
    return any(part.get("format") == "path" for part in (field, *field.get("anyOf", ())))


def kinds_at(model: type[BaseModel], path: tuple[str | int, ...], data: Any) -> dict[str, list[str]]:
    """The kinds of which the section at ``path`` may be one, each with its fields; none where there is no choice."""
    *parents, name = path
    while isinstance(name, int):
        *parents, name = parents
    field = fields_at(model, tuple(parents), data).get(str(name))
    return kinds(field, json_schema(model)) if field else {}


def kinds(field: dict[str, Any], root: dict[str, Any]) -> dict[str, list[str]]:
    """Of a field that may be one of several kinds: the name of each -> its own fields."""
    field = _resolve(field, root)
    if discriminator := field.get("discriminator"):
        return {
            name: [
                key
                for key in _resolve({"$ref": ref}, root)["properties"]
                if key != discriminator["propertyName"]
            ]
            for name, ref in discriminator["mapping"].items()
        }
    for key in ("anyOf", "oneOf"):
        for part in field.get(key, ()):
            if found := kinds(part, root):
                return found
    return kinds(field["items"], root) if isinstance(field.get("items"), dict) else {}


def described(field: dict[str, Any], root: dict[str, Any]) -> str:
    """A field's description; that of its section where the two are the same and pydantic wrote it once."""
    return str(field.get("description") or _resolve(field, root).get("description", ""))


def type_text(field: dict[str, Any], root: dict[str, Any]) -> str:
    """A field's type in a person's words."""
    if "const" in field:
        return repr(field["const"])
    if "enum" in field:
        return " | ".join(str(value) for value in field["enum"])
    if "$ref" in field:
        return "section"
    for key in ("anyOf", "oneOf"):
        if key in field:
            return " | ".join(dict.fromkeys(type_text(part, root) for part in field[key]))
    kind = field.get("type", "any")
    if kind == "array":
        inner = field.get("items") or (field.get("prefixItems") or [{}])[0]
        return f"list of {type_text(inner, root)}" if isinstance(inner, dict) else "list"
    if kind == "object":
        extra = field.get("additionalProperties")
        return f"map of {type_text(extra, root)}" if isinstance(extra, dict) and extra else "map"
    return {"string": "text", "integer": "integer", "number": "number", "boolean": "true | false"}.get(
        kind, kind
    )


def explain(model: type[BaseModel], dotted: str) -> list[dict[str, Any]]:
    """What a field is: one entry for each section that can hold it, with type, default, bounds and meaning.

    Raises:
        NotFoundError: no such field, with the nearest name.

    """
    *parents, name = dotted.split(".")
    root = json_schema(model)
    fields = fields_at(model, tuple(parents), None)
    if not fields:
        raise NotFoundError(f"{'.'.join(parents)} is not a section of the job file")
    if name not in fields:
        raise NotFoundError(f"{dotted}: no such field{suggest(name, list(fields))}")
    nodes = branches(root, root)
    for part in parents:
        nodes = [
            inner
            for node in nodes
            if part in node.get("properties", {})
            for inner in branches(node["properties"][part], root)
        ]
    entries = []
    for node in nodes:
        if (field := node.get("properties", {}).get(name)) is None:
            continue
        inner = branches(field, root)
        entries.append(
            {
                "field": dotted,
                "section": node.get("title", ""),
                "type": type_text(field, root),
                "required": name in node.get("required", ()),
                "default": field.get("default"),
                "meaning": " ".join(described(field, root).split()),
                "fields": sorted({key for part in inner for key in part["properties"]}),
                "kinds": kinds(field, root),
                "sizes": {size: field["sizes"][size] for size in field["anyOf"][0]["enum"]}
                if "sizes" in field
                else {},
            }
        )
    unique: list[dict[str, Any]] = []
    for entry in entries:
        if not any({**entry, "section": ""} == {**seen, "section": ""} for seen in unique):
            unique.append(entry)
    return unique
