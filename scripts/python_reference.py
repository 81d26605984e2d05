"""The Markdown of docs/python.md, from the signatures and docstrings of ``orchestrator``'s public names."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from typing import Any

from pydantic import BaseModel

import orchestrator
from orchestrator import errors

HEAD = """\
# From Python

<!-- written by scripts/written_pages.py; change the docstrings instead -->

What `import orchestrator` offers. Job files and cluster profiles are described in [the job file](job-file.md) and
[the cluster profile](cluster-profile.md), where every field has its line.

```python
import orchestrator

run = orchestrator.submit("examples/digits-cnn.yaml")
print(run.wait().metrics["val/accuracy"])
```
"""
ELSEWHERE = ("ClusterProfile", "JobSpec")


def page() -> str:
    """The whole page: functions, then classes, then the errors."""
    public = {name: getattr(orchestrator, name) for name in orchestrator.__all__ if name not in ELSEWHERE}
    functions = {name: value for name, value in public.items() if inspect.isfunction(value)}
    classes = {name: value for name, value in public.items() if inspect.isclass(value)}
    text = HEAD
    for name, value in functions.items():
        text += _function(f"orchestrator.{name}", value, level=2)
    for name, value in classes.items():
        text += "".join(_class(name, value))
    return text + "\n## Errors\n\n```\n" + inspect.getdoc(errors).partition("\n\n")[2].rstrip() + "\n```\n"  # type: ignore[union-attr]


def _class(name: str, value: Any) -> Iterator[str]:
    yield f"\n## {name}\n\n{_markdown(value)}\n"
    if issubclass(value, (BaseModel, Enum)):
        yield "\n| | Meaning |\n|---|---|\n"
        for field, meaning in _attributes(value).items():
            if not field.startswith("_"):
                yield f"| `{field}` | {meaning} |\n"
    bases = [value] if issubclass(value, (BaseModel, Enum)) else value.__mro__
    for member in dict.fromkeys(member for base in bases for member in vars(base)):
        method = getattr(value, member)
        if inspect.isfunction(method) and not member.startswith("_"):
            yield _function(member, method, level=3)


def _attributes(value: type[Any]) -> dict[str, str]:
    """Each attribute of a class body with the docstring that stands below it."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    assert isinstance(body, ast.ClassDef)
    meanings: dict[str, str] = {}
    last = ""
    for statement in body.body:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)):
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            last = ast.unparse(target)
            meanings[last] = ""
        elif last and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            meanings[last] = " ".join(str(statement.value.value).split())
        else:
            last = ""
    return meanings


def _function(name: str, value: Any, level: int) -> str:
    signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(value)))
    signature = signature.replace("(self, ", "(").replace("(self)", "()")
    return f"\n{'#' * level} {name}\n\n```python\n{name}{signature}\n```\n\n{_markdown(value)}\n"


def _markdown(value: Any) -> str:
    """A docstring whose arguments and errors are lists."""
    text = inspect.getdoc(value) or ""
    return re.sub(
        r"^ {4}(\w+): ", r"- `\1`: ", re.sub(r"^(Args|Raises):$", r"\1:\n", text, flags=re.M), flags=re.M
    )
