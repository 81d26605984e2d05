"""A field that a person may write does something: code outside the section that declares it reads it."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter

from orchestrator.spec.job import JobSpec
from orchestrator.spec.profile import ClusterProfile, Toleration

ROOT = Path(__file__).parents[3]
CODE = [
    path
    for folder in ("orchestrator", "models", "clusters")
    for path in (ROOT / folder).rglob("*.py")
    if path.parent != ROOT / "orchestrator" / "spec"
]
PASSED_WHOLE = {Toleration}
"""Sections that are handed on as they are written, to others who read them."""


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections that a field's type names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from sections_in(inner)


def sections_under(root: type[BaseModel]) -> set[type[BaseModel]]:
    """``root`` and every section that can be written in it."""
    found: set[type[BaseModel]] = set()
    left = [root]
    while left:
        section = left.pop()
        if section not in found:
            found.add(section)
            for field in section.model_fields.values():
                left += sections_in(field.annotation)
    return found


@cache
def read_names() -> frozenset[str]:
    """Attributes that are read anywhere, and names that are looked up by ``getattr``."""
    names = set()
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                names.add(node.attr)
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                names.update(part.value for part in node.args[1:2] if isinstance(part, ast.Constant))
    return frozenset(names)


@cache
def read_by_properties() -> frozenset[str]:
    """Fields that a section's own properties and methods read, where code outside reads those: ``Pack.stride``."""
    names = set()
    for path in (ROOT / "orchestrator" / "spec").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name in read_names():
                names |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return frozenset(names)


SECTIONS = sorted(
    (sections_under(JobSpec) | sections_under(ClusterProfile)) - PASSED_WHOLE,
    key=lambda section: section.__name__,
)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_field_is_read(section):
    unread = section.model_fields.keys() - read_names() - read_by_properties()
    assert not unread, f"{section.__name__} takes fields that nothing reads: {', '.join(sorted(unread))}"


def test_a_field_that_nothing_reads_would_be_seen():
    read = read_names() | read_by_properties()
    assert "no_code_reads_a_field_of_this_name" not in read
    assert {"global_batch_size", "bucket_megabytes", "service_account", "overlap"} <= read
    assert len(SECTIONS) > 50


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_what_is_none_by_default_is_read_from_a_plan_that_says_so(section):
    """A plan writes its defaults out, and the driver reads them."""
    for name, field in section.model_fields.items():
        if field.metadata and field.default is None and not field.is_required():
            written = TypeAdapter(Annotated[field.annotation, *field.metadata])
            assert written.validate_json("null") is None, name
