"""A person's own functions, named ``module:function`` in a job file, imported where the job's code is; and that code
itself, which a run keeps beside its checkpoints.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module, invalidate_caches
from importlib.machinery import PathFinder
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any

from orchestrator.errors import SpecError


@dataclass(frozen=True)
class OwnCode:
    """The Python files of a person's own that a job was trained with."""

    files: Mapping[str, str]
    """Path below the folder of their code -> text. Empty where the job has no factory of theirs."""

    @property
    def digest(self) -> str:
        """SHA-256 of it; empty where there is none."""
        return hashlib.sha256(self.to_json()).hexdigest() if self.files else ""

    def to_json(self) -> bytes:
        """As a run keeps it."""
        return json.dumps(dict(self.files), sort_keys=True, indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes) -> OwnCode:
        """Inverse of ``to_json``."""
        return cls(json.loads(content))

    def differs_in(self, other: OwnCode) -> list[str]:
        """Files that are not the same in both."""
        return sorted(
            name for name in {*self.files, *other.files} if self.files.get(name) != other.files.get(name)
        )

    @contextlib.contextmanager
    def importable(self) -> Iterator[None]:
        """Inside, it stands first on the import path, whatever lies elsewhere."""
        if not self.files:
            yield
            return
        with tempfile.TemporaryDirectory(prefix="trainwright-code-") as folder:
            for name, text in self.files.items():
                file = Path(folder, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text, encoding="utf-8")
            put_first(folder)
            try:
                yield
            finally:
                sys.path.remove(folder)
                for name in _imported_from(Path(folder)):
                    del sys.modules[name]


def code_of(factories: Iterable[str]) -> OwnCode:
    """The code of factories: their files, and what else was imported from the same folder."""
    found: dict[str, str] = {}
    for folder in {_folder_of(_imported(factory)) for factory in factories}:
        for file in _imported_from(folder).values():
            if file.suffix == ".py":
                found[file.relative_to(folder).as_posix()] = file.read_text(encoding="utf-8")
    return OwnCode(found)


def _imported(factory: str) -> ModuleType:
    """The module of a factory, or the package around it; imported now where nobody has called the factory yet."""
    if _top(factory) not in sys.modules:
        import_module(factory.partition(":")[0])
    return sys.modules[_top(factory)]


def _top(name: str) -> str:
    return name.partition(":")[0].partition(".")[0]


def _imported_from(folder: Path) -> dict[str, Path]:
    """Module -> its file, of those that were imported from a folder; packages that are installed in it are not."""
    files = {name: Path(getattr(module, "__file__", None) or ".") for name, module in sys.modules.items()}
    return {
        name: file
        for name, file in files.items()
        if folder in file.parents
        and "site-packages" not in file.relative_to(folder).parts
        and _top(name) not in ("orchestrator", "__main__")
    }


def _folder_of(top: ModuleType) -> Path:
    """The folder on the import path that a module is in."""
    if top.__file__ is None:  # a package without __init__.py
        return Path(next(iter(top.__path__))).resolve().parent
    file = Path(top.__file__)
    return file.parent.parent if file.name == "__init__.py" else file.parent


def folder_of(base_dir: str, working_dir: str | None) -> str:
    """Where a job's own code is imported from."""
    return str(Path(base_dir, working_dir or ".").resolve())


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


def made_by(name: str, field: str, config: dict[str, Any], *given: Any) -> Any:
    """What the function returns for a config, after what it is given.

    Raises:
        SpecError: it can't be imported, or raises.
    """
    factory = load_factory(name, field)
    try:
        return factory(*given, **config)
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
    """Forget a module of the same name from another folder, another job's of the same process, and what it imported
    from there.
    """
    top = _top(module_name)
    known, spec = sys.modules.get(top), PathFinder.find_spec(top, sys.path[:1])
    if known is None or spec is None or spec.origin == getattr(known, "__file__", None):
        return
    for name in _imported_from(_folder_of(known)):
        del sys.modules[name]
    for name in [name for name in sys.modules if _top(name) == top]:
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
