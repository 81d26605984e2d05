"""Files on disk, ``s3://`` and ``gs://``: listing, opening, and trying again where that can help."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

from pyarrow import fs

from orchestrator.errors import DataError, InfrastructureError
from orchestrator.storage import Store, faults, split_scheme, store_and_name
from orchestrator.storage.arrow import SCHEMES, open_filesystem
from orchestrator.storage.faults import Fault, fault_of, first_line

T = TypeVar("T")


@dataclass(frozen=True)
class FileFacts:
    """A file as the storage lists it."""

    path: str
    """Absolute path or URI."""
    bytes: int
    stamp: str
    """Time of the last change; only ever compared for equality."""


def locate(path: str) -> tuple[fs.FileSystem, str]:
    """Arrow's file system of an absolute path or URI, and the path in it."""
    _refuse_other_schemes(path)
    return open_filesystem(path)


def _refuse_other_schemes(path: str) -> None:
    scheme, _ = split_scheme(path)
    if scheme not in ("", "file", *SCHEMES):
        raise DataError(f"{scheme}:// is not read; use a path, s3:// or gs://")


def read_range(path: str, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes [start, stop) of a file. Raises as ``retrying`` does."""
    store, name = _stored(path)
    with _explained(path):
        return store.read(name, start, None if stop is None else stop - start)


def list_files(pattern: str, extensions: tuple[str, ...]) -> list[FileFacts]:
    """The files of a path: itself, all below a folder, or those that match a pattern; sorted by path.

    Args:
        pattern: absolute path or URI; ``*`` and ``?`` match within a name, ``**`` any folders.
        extensions: endings that count within folders, e.g. ``(".parquet",)``; empty for all.

    Raises:
        DataError: nothing there.
    """
    system, inner = locate(pattern)
    prefix = pattern[: len(pattern) - len(inner)]
    magic = any(character in inner for character in "*?[")
    root = inner if not magic else _fixed_part(inner)
    info = retrying(lambda: system.get_file_info(root), pattern)
    if info.type == fs.FileType.NotFound:
        raise DataError(f"{pattern}: there is no such file or folder{_near(root, prefix)}")
    if info.type == fs.FileType.File:
        return [_facts(info, prefix)]
    found = retrying(lambda: system.get_file_info(fs.FileSelector(root, recursive=True)), pattern)
    files = [_facts(one, prefix) for one in found if one.type == fs.FileType.File]
    if magic:
        files = [one for one in files if matches(one.path[len(prefix) :], inner)]
    else:
        files = [one for one in files if not _hidden(one.path[len(prefix) + len(root) :])]
        if extensions:
            files = [one for one in files if one.path.lower().endswith(extensions)]
    if not files:
        wanted = f" that ends in {', '.join(extensions)}" if extensions and not magic else ""
        raise DataError(f"{pattern}: holds no file{wanted}")
    return sorted(files, key=lambda one: one.path)


def matches(path: str, pattern: str) -> bool:
    """Whether a path is as the pattern says; ``*`` stays within one folder, ``**`` does not."""
    parts, wanted = PurePosixPath(path).parts, PurePosixPath(pattern).parts
    return _parts_match(parts, wanted)


def _parts_match(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_parts_match(parts[skip:], wanted[1:]) for skip in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], wanted[0]) and _parts_match(parts[1:], wanted[1:])


def _fixed_part(pattern: str) -> str:
    fixed: list[str] = []
    for part in pattern.split("/"):
        if any(character in part for character in "*?["):
            break
        fixed.append(part)
    return "/".join(fixed) or "/"


def _facts(info: fs.FileInfo, prefix: str) -> FileFacts:
    return FileFacts(prefix + info.path, info.size or 0, str(info.mtime_ns or 0))


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.split("/") if part)


def _near(root: str, prefix: str) -> str:
    if prefix:
        return ""
    parent = PurePosixPath(root).parent
    names = sorted(os.listdir(parent))[:5] if os.path.isdir(parent) else []  # noqa: PTH112, PTH208
    return f"; {parent} has {', '.join(names)}" if names else ""


def retrying(action: Callable[[], T], what: str) -> T:
    """Do it, again after an error of the storage that may pass.

    Raises:
        DataError: the file is missing, may not be read, or is damaged; trying again can't help.
        InfrastructureError: the storage still fails.
    """
    with _explained(what):
        return faults.retrying(action, what)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        match fault_of(error):
            case Fault.REFUSED:
                raise DataError(f"{what}: can't be read ({first_line(error)})") from error
            case Fault.DAMAGED:
                raise DataError(f"{what}: is damaged ({first_line(error)})") from error
            case Fault.PASSING:
                raise InfrastructureError(f"{what}: {first_line(error)}") from error


def _stored(path: str) -> tuple[Store, str]:
    _refuse_other_schemes(path)
    return store_and_name(path)


def exists(path: str) -> bool:
    """Whether there is a file."""
    store, name = _stored(path)
    with _explained(path):
        return store.exists(name)


def write_whole(path: str, write: Callable[[str], None]) -> None:
    """Make a file that others see whole or not at all.

    Args:
        path: absolute path or URI.
        write: writes the file at the local path it is given.

    Raises InfrastructureError where it can't be written.
    """
    store, name = _stored(path)
    with _writes_explained(path), store.draft(name) as draft:
        write(str(draft))


def write_text(path: str, text: str) -> None:
    """The same with a text, in UTF-8."""
    store, name = _stored(path)
    with _writes_explained(path):
        store.write(name, text.encode())


@contextmanager
def _writes_explained(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InfrastructureError(f"{path}: can't be written ({first_line(error)})") from error
