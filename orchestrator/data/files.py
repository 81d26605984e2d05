"""Files on disk, ``s3://`` and ``gs://``: listing, opening, and trying again where that can help."""

from __future__ import annotations

import fnmatch
import logging
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pyarrow import fs

from orchestrator.errors import DataError, InfrastructureError
from orchestrator.object_stores import SCHEMES, failed_reads_as_os_errors, object_store, read_file

T = TypeVar("T")
_LOGGER = logging.getLogger(__name__)
_RETRIES = 5
_FIRST_WAIT_SECONDS = 0.2
_DAMAGE = ("Corrupt", "deserialize", "Unexpected end of stream", "Malformed", "malformed", "data page")
"""Words of Arrow's errors about a file's contents, which come as OSError too."""
_REFUSALS = (
    *("ACCESS_DENIED", "AccessDenied", "NO_SUCH_BUCKET", "NoSuchBucket", "NO_SUCH_KEY"),
    "OAuth2 access token",
)
"""Words of what S3 and GCS say no to for good."""
_HOPELESS = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


@dataclass(frozen=True)
class FileFacts:
    """A file as the storage lists it."""

    path: str
    """Absolute path or URI."""
    bytes: int
    stamp: str
    """Time of the last change; only ever compared for equality."""


def absolute(path: str, base_dir: str) -> str:
    """A path or URI that means the same everywhere; relative paths start at ``base_dir``."""
    if "://" in path:
        return path
    return os.path.normpath(os.path.join(base_dir, os.path.expanduser(path)))  # noqa: PTH111, PTH118


def locate(path: str) -> tuple[fs.FileSystem, str]:
    """The file system of an absolute path or URI, and the path in it."""
    scheme, separator, rest = path.partition("://")
    if not separator or scheme == "file":
        return fs.LocalFileSystem(), rest or path
    if scheme not in SCHEMES:
        raise DataError(f"{scheme}:// is not read; use a path, s3:// or gs://")
    return object_store(scheme, rest.partition("/")[0]), rest


def read_range(path: str, start: int = 0, stop: int | None = None) -> bytes:
    """Bytes [start, stop) of a file."""

    def read() -> bytes:
        system, inner = locate(path)
        return read_file(system, inner, start, None if stop is None else stop - start)

    return retrying(read, path)


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
    """Do it, again after an error of the storage that may pass: five times, waits doubling with jitter.

    Raises:
        DataError: the file is missing or may not be read; trying again can't help.
        InfrastructureError: the storage still fails.
    """
    for attempt in range(_RETRIES + 1):
        try:
            with failed_reads_as_os_errors(what):
                return action()
        except _HOPELESS as error:
            raise DataError(f"{what}: can't be read ({_first_line(error)})") from error
        except OSError as error:
            if any(word in str(error) for word in _DAMAGE):
                raise DataError(f"{what}: is damaged ({_first_line(error)})") from error
            if any(word in str(error) for word in _REFUSALS):
                raise DataError(f"{what}: can't be read ({_first_line(error)})") from error
            if attempt == _RETRIES:
                raise InfrastructureError(
                    f"{what}: the storage failed {_RETRIES + 1} times, last with {_first_line(error)}"
                ) from error
            wait = _FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.5, 1.5)
            _LOGGER.warning("%s: %s; trying again in %.1f s", what, _first_line(error), wait)
            time.sleep(wait)
    raise AssertionError


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def exists(path: str) -> bool:
    """Whether there is a file."""
    system, inner = locate(path)
    return bool(retrying(lambda: system.get_file_info(inner), path).type == fs.FileType.File)


def write_whole(path: str, write: Callable[[str], None]) -> None:
    """Make a file that others see whole or not at all.

    Args:
        path: absolute path or URI.
        write: writes the file at the local path it is given.
    """
    system, inner = locate(path)
    if "://" not in path:
        folder = Path(inner).parent
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(prefix=".draft-", dir=folder)
        os.close(descriptor)
        try:
            write(draft)
            Path(draft).chmod(0o644)
            Path(draft).replace(inner)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
        return
    with tempfile.TemporaryDirectory() as scratch:
        draft = str(Path(scratch) / "draft")
        write(draft)
        # An object appears when its upload ends, so none is seen half.
        retrying(lambda: _upload(draft, system, inner), path)


def _upload(draft: str, system: fs.FileSystem, inner: str) -> None:
    with Path(draft).open("rb") as file, system.open_output_stream(inner) as out:
        shutil.copyfileobj(file, out, 2**22)


def write_text(path: str, text: str) -> None:
    """The same with a text, in UTF-8."""
    write_whole(path, lambda draft: _write(draft, text))


def _write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8")
