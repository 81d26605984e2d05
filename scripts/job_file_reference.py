"""The Markdown of docs/job-file.md and docs/cluster-profile.md and the schema in docs/job.schema.json, from the models' docstrings."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.spec.job import JobSpec
from orchestrator.spec.profile import ClusterProfile
from orchestrator.spec.schema import described, json_schema, type_text


def reference(model: type[JobSpec] | type[ClusterProfile], title: str, intro: str) -> str:
    """The Markdown of a model and of every section below it."""
    root = json_schema(model)
    lines = [
        f"# {title}",
        "",
        "<!-- written by scripts/written_pages.py; change the docstrings instead -->",
        "",
        intro,
    ]
    lines += _section("Top level", root, root)
    for name, section in root["$defs"].items():
        if "properties" in section:
            lines += _section(name, section, root)
    return "\n".join(lines).rstrip() + "\n"


def _section(name: str, section: dict[str, Any], root: dict[str, Any]) -> list[str]:
    lines = [
        "",
        f"## {name}",
        "",
        " ".join(section.get("description", "").split()),
        "",
        "| Field | Type | Default | Meaning |",
        "|---|---|---|---|",
    ]
    for field, content in section["properties"].items():
        default = "required" if field in section.get("required", ()) else _default(content)
        kind = _links(content, root) or type_text(content, root)
        meaning = " ".join(described(content, root).split())
        lines.append(" | ".join(("| `" + field + "`", _cell(kind), _cell(default), f"{_cell(meaning)} |")))
    return lines


def _links(content: dict[str, Any], root: dict[str, Any]) -> str:
    names = [reference.rsplit("/", 1)[1] for reference in _references(content)]
    sections = [name for name in dict.fromkeys(names) if "properties" in root["$defs"][name]]
    return " or ".join(f"[{name}](#{name.lower()})" for name in sections)


def _references(content: Any) -> list[str]:
    if isinstance(content, dict):
        own = [content["$ref"]] if "$ref" in content else []
        return own + [
            found
            for key, value in content.items()
            if key not in ("default", "discriminator")
            for found in _references(value)
        ]
    if isinstance(content, list):
        return [found for value in content for found in _references(value)]
    return []


def _default(content: dict[str, Any]) -> str:
    value = content.get("default")
    if value is None:
        return "null"
    return "its own defaults" if isinstance(value, dict) and value else f"`{value}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def pages() -> dict[str, str]:
    """File name -> content."""
    return {
        "job-file.md": reference(
            JobSpec,
            "The job file",
            "Every section and field. `trainwright explain FIELD` says the same on the command line, and"
            " `trainwright schema` prints the JSON Schema for editors.",
        ),
        "cluster-profile.md": reference(
            ClusterProfile,
            "The cluster profile",
            "What a platform engineer says of a cluster, in `~/.config/trainwright/clusters/NAME.yaml` or in a file given"
            " to `--cluster`. `trainwright schema --profile` prints the JSON Schema.",
        ),
        "job.schema.json": json.dumps(json_schema(JobSpec), indent=2) + "\n",
    }
