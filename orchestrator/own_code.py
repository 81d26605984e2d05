"""A person's own functions, named ``module:function`` in a job file, imported where the job's code is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module, invalidate_caches
from importlib.machinery import PathFinder
from pathlib import Path
from traceback import extract_tb
from typing import Any

from orchestrator.errors import SpecError


def put_first(folder: str) -> None:
    """Let imports look into this folder first, as a worker of the job does."""
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)
    invalidate_caches()


def load_factory(name: str, field: str) -> Callable[..., Any]:
    """The function of ``module:function``.

    Args:
        name: as the job file has it.
        field: where it has it, for the errors.

    Raises:
        SpecError: it can't be imported; with the reason, and with where was looked.
    """
    module_name, _, attribute = name.partition(":")
    _forget_other(module_name)
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever a person's file raises while it is imported
        raise SpecError(f"{field}: {name} can't be imported: {_reason(error, module_name)}") from error
    made = getattr(module, attribute, None)
    if not callable(made):
        there = [key for key, value in vars(module).items() if callable(value) and key[:1] != "_"]
        problem = "is no function" if hasattr(module, attribute) else "is not there"
        raise SpecError(
            f"{field}: {attribute!r} {problem} in {module.__file__}; there is {', '.join(there[:12]) or 'nothing'}"
        )
    function: Callable[..., Any] = made
    return function


def made_by(name: str, field: str, config: dict[str, Any]) -> Any:
    """What the function returns for a config.

    Raises:
        SpecError: it can't be imported, or raises.
    """
    factory = load_factory(name, field)
    try:
        return factory(**config)
    except Exception as error:
        raise SpecError(f"{field}: {name} failed: {described(error)}") from error


def described(error: BaseException) -> str:
    """An error of a person's code in one line: its kind, its first line, and where it was raised."""
    said = (str(error).strip().splitlines() or [""])[0][:300]
    frames = extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    last = (own or frames)[-1:]
    where = f" ({Path(last[0].filename).name}, line {last[0].lineno})" if last else ""
    return f"{type(error).__name__}: {said}{where}" if said else f"{type(error).__name__}{where}"


def _forget_other(module_name: str) -> None:
    """Forget a module of the same name from another folder: another job's, of the same process."""
    top = module_name.partition(".")[0]
    known, spec = sys.modules.get(top), PathFinder.find_spec(top, sys.path[:1])
    if known is None or spec is None or spec.origin == getattr(known, "__file__", None):
        return
    for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
        del sys.modules[name]


def _reason(error: Exception, module_name: str) -> str:
    missing = getattr(error, "name", None)
    if isinstance(error, ModuleNotFoundError) and missing and module_name.startswith(missing):
        folder = Path(sys.path[0] or ".").resolve()
        files = sorted(file.name for file in folder.glob("*.py")) if folder.is_dir() else []
        return (
            f"there is no module {missing!r}; first on the import path is {folder}"
            f" ({', '.join(files[:12]) or 'no Python files'}); set environment.working_dir to the folder of yours"
        )
    return described(error)
