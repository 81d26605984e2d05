#!/usr/bin/env python3
"""Write tests/unit/public_surface.txt: what people's code and scripts may lean on, one name a line.

    python scripts/public_surface.py

A test compares the file with the code, so that a change of a public name, signature, verb, option or exit code is seen
in review, and said in CHANGELOG.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from enum import Enum
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import typer.main
from pydantic import BaseModel

from orchestrator import errors, runs
from orchestrator.cli.app import app

PINNED = Path(__file__).resolve().parents[1] / "tests" / "unit" / "public_surface.txt"
MODULES = (
    "orchestrator",
    "orchestrator.ask",
    "orchestrator.sdk",
    "orchestrator.testing",
    "orchestrator.errors",
)


def surface() -> str:
    """The whole file."""
    lines = [line for name in MODULES for line in module_lines(import_module(name))]
    return "\n".join([*lines, *verb_lines(), *exit_code_lines()]) + "\n"


def module_lines(module: ModuleType) -> Iterator[str]:
    """Each public name of a module: those of ``__all__``, else those that it defines."""
    defined = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    for name in sorted(getattr(module, "__all__", defined)):
        yield from member_lines(f"{module.__name__}.{name}", getattr(module, name))


def member_lines(path: str, value: Any) -> Iterator[str]:
    """A function with its signature; a class with its members, also of bases that have no line of their own; a model's fields; an enum's values."""
    if not inspect.isclass(value):
        yield f"{path}{inspect.signature(value)}" if callable(value) else path
    elif issubclass(value, Enum):
        yield from (f"{path}.{member.name} = {member.value}" for member in value)
    elif issubclass(value, BaseModel):
        yield from (f"{path}.{field}" for field in value.model_fields)
    else:
        yield f"{path}({', '.join(base.__name__ for base in value.__bases__ if base is not object)})"
        hidden = [base for base in value.__mro__[1:] if base.__module__.partition(".")[0] == "orchestrator"]
        hidden = [base for base in hidden if base.__module__ not in MODULES]
        members = {name: member for base in (*reversed(hidden), value) for name, member in vars(base).items()}
        for name, member in sorted(members.items()):
            if name == "__init__" or not name.startswith("_"):
                yield f"{path}.{name}{inspect.signature(member) if callable(member) else ''}"


def verb_lines() -> Iterator[str]:
    """Each verb of the command line with its arguments and options."""
    for verb, command in sorted(typer.main.get_group(app).commands.items()):
        words = ["/".join([*param.opts, *param.secondary_opts]) for param in command.params]
        yield " ".join(["trainwright", verb, *(word if "-" in word else word.upper() for word in words)])


def exit_code_lines() -> Iterator[str]:
    """What the command line exits with, for each error and for each reason that ends a run."""
    for name, value in sorted(vars(errors).items()):
        if inspect.isclass(value) and issubclass(value, errors.TrainwrightError):
            yield f"exit code {value.exit_code}: {name}"
    for reason in runs.EndReason:
        yield f"exit code {reason.exit_code}: a run that ended by {reason.value}"


if __name__ == "__main__":
    PINNED.write_text(surface(), encoding="utf-8")
