"""Which files a path means: itself, those below a folder, or those that match a pattern; in the order of their numbers."""

from __future__ import annotations

import fnmatch
import os
import re
import time
from pathlib import Path, PurePosixPath

from pyarrow import fs

from orchestrator.data.files import FileFacts, locate, retrying
from orchestrator.errors import DataError
from orchestrator.storage import split_scheme
from orchestrator.storage.uris import UNFINISHED_UPLOAD

_PACKED = {
    ".gz": "gunzip",
    ".zst": "zstd -d",
    ".bz2": "bunzip2",
    ".xz": "unxz",
    ".lz4": "lz4 -d",
    ".zip": "unzip",
    ".7z": "7z x",
    ".tgz": "gunzip",
    ".br": "brotli -d",
    ".lzma": "unlzma",
    ".lzo": "lzop -d",
    ".sz": "snzip -d",
    ".snappy": "snzip -d",
    ".z": "uncompress",
}
"""Endings of compressed files, in which no row can be found without reading all before it, and what unpacks them."""

_BOOKKEEPING = re.compile(
    r"_(SUCCESS|metadata|common_metadata|temporary|delta_log|spark_metadata|(started|committed)_\d+)(\.\w+)?"
)
"""What Spark, Delta and Hive leave beside tables and is no data."""


def list_files(pattern: str, extensions: tuple[str, ...], *, bookkeeping: bool = True) -> list[FileFacts]:
    """The files of a path, sorted by name, numbers within it by their value: part-2 before part-10.

    What a dot hides is no data (``.DS_Store``, macOS's ``._name``), nor is what Spark and Delta keep beside tables.

    Args:
        pattern: absolute path or URI. What exists under this very name is meant; else ``*``, ``?`` and ``[ab]`` match
            within a name, ``**`` any folders.
        extensions: endings that count within folders, e.g. ``(".parquet",)``; empty for all.
        bookkeeping: leave out what Spark and Delta keep; where a folder's name is a class, it may be any.

    Raises:
        DataError: nothing there, or compressed files.
    """
    system, inner = locate(pattern)
    prefix = pattern[: len(pattern) - len(inner)]
    info = retrying(lambda: system.get_file_info(inner), pattern)
    if info.type == fs.FileType.File:
        files = [_facts(info, prefix)]
    elif info.type == fs.FileType.Directory:
        below = _files_below(system, inner, pattern, prefix)
        files = [one for one in below if not _is_hidden(one.path[len(prefix) + len(inner) :], bookkeeping)]
    else:
        files = _matching(system, pattern, prefix, inner)
    wanted = [one for one in files if info.type != fs.FileType.Directory or _counts(one.path, extensions)]
    _refuse_packed(files, extensions)
    if not wanted:
        raise DataError(f"{pattern}: holds no file{_ending(extensions)}{_others(files)}")
    _outlive_stamps(wanted, prefix)
    return sorted(wanted, key=lambda one: natural(one.path))


def natural(name: str) -> tuple[tuple[str, int, str], ...]:
    """A key that sorts numbers within names by their value; names that differ never compare equal."""
    parts = re.split(r"(\d+)", name)
    pairs = zip(parts[::2], [*parts[1::2], ""], strict=True)
    return tuple((text, int(digits or -1), digits) for text, digits in pairs)


def matches(path: str, pattern: str) -> bool:
    """Whether a path is as the pattern says; ``*`` stays within one folder, ``**`` does not."""
    return _parts_match(PurePosixPath(path).parts, PurePosixPath(pattern).parts)


def _parts_match(parts: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_parts_match(parts[skip:], wanted[1:]) for skip in range(len(parts) + 1))
    if not parts or (parts[0].startswith(".") and not wanted[0].startswith(".")):
        return False
    return fnmatch.fnmatchcase(parts[0], wanted[0]) and _parts_match(parts[1:], wanted[1:])


def _matching(system: fs.FileSystem, pattern: str, prefix: str, inner: str) -> list[FileFacts]:
    root = _fixed_part(inner)
    found = fs.FileType.NotFound
    if root != inner:
        found = retrying(lambda: system.get_file_info(root), pattern).type
    if found == fs.FileType.NotFound:
        raise DataError(f"{pattern}: there is no such file or folder{_near(root, prefix)}")
    files = _files_below(system, root, pattern, prefix)
    return [one for one in files if matches(one.path[len(prefix) :], inner)]


def _files_below(system: fs.FileSystem, root: str, pattern: str, prefix: str) -> list[FileFacts]:
    try:
        found = retrying(lambda: system.get_file_info(fs.FileSelector(root, recursive=True)), pattern)
        _refuse_unfinished(found, pattern)
        return [_facts(one, prefix) for one in found if one.type == fs.FileType.File]
    except UnicodeDecodeError as error:
        name = error.object.decode("utf-8", errors="replace")
        raise DataError(f"{pattern}: a file's name is not UTF-8 ({name!r}); rename it") from error


def _refuse_unfinished(found: list[fs.FileInfo], pattern: str) -> None:
    if any(one.base_name == UNFINISHED_UPLOAD for one in found):
        raise DataError(
            f"{pattern}: an upload to it has not ended, so files are missing; do the same trainwright upload again"
        )


def _fixed_part(pattern: str) -> str:
    fixed: list[str] = []
    for part in pattern.split("/"):
        if any(character in part for character in "*?["):
            break
        fixed.append(part)
    return "/".join(fixed) or "/"


def _facts(info: fs.FileInfo, prefix: str) -> FileFacts:
    if split_scheme(prefix)[0] in ("", "file"):
        status = Path(info.path).stat()
        stamp = f"{status.st_ctime_ns}-{status.st_mtime_ns}-{status.st_ino}"
        return FileFacts(prefix + info.path, status.st_size, stamp)
    return FileFacts(prefix + info.path, info.size or 0, str(info.mtime_ns or 0))


def _outlive_stamps(files: list[FileFacts], prefix: str) -> None:
    """Wait until a file that is written from now on gets another stamp than that which it has."""
    resolution = 0.02 if split_scheme(prefix)[0] in ("", "file") else 1.0
    age = time.time() - max(one.changed_ns for one in files) / 1e9
    if 0 <= age < resolution:
        time.sleep(resolution - age)


def _is_hidden(relative: str, bookkeeping: bool) -> bool:
    parts = [part for part in relative.split("/") if part]
    return any(
        part.startswith(".") or (bookkeeping and _BOOKKEEPING.fullmatch(part) is not None) for part in parts
    )


def _counts(path: str, extensions: tuple[str, ...]) -> bool:
    return not extensions or path.lower().endswith(extensions)


def _refuse_packed(files: list[FileFacts], extensions: tuple[str, ...]) -> None:
    """Refuse what would be of the format if it were not compressed; it is never left out without a word."""
    for one in files:
        name = one.path.lower()
        ending = next((ending for ending in _PACKED if name.endswith(ending)), None)
        if ending is None:
            continue
        inside = name.removesuffix(ending) + (".tar" if ending == ".tgz" else "")
        if len(files) == 1 or _counts(inside, extensions):
            raise DataError(
                f"{one.path}: is compressed, so no row in it can be found alone; unpack it ({_PACKED[ending]})"
            )


def _ending(extensions: tuple[str, ...]) -> str:
    return f" that ends in {', '.join(extensions)}" if extensions else ""


def _others(files: list[FileFacts]) -> str:
    names = sorted(one.path.rsplit("/", 1)[-1] for one in files)[:3]
    return f"; it has {', '.join(names)}{' ...' if len(files) > 3 else ''}" if names else ""


def _near(root: str, prefix: str) -> str:
    if prefix:
        return ""
    parent = PurePosixPath(root).parent
    names = sorted(os.listdir(parent))[:5] if os.path.isdir(parent) else []  # noqa: PTH112, PTH208
    return f"; {parent} has {', '.join(names)}" if names else ""
