"""Files on disk, ``s3://`` and ``gs://``: opening, and trying again where that can help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from pyarrow import fs

from orchestrator.errors import DataError, InfrastructureError
from orchestrator.storage import Store, faults, is_uri, split_scheme, store_and_name
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
    """Differs once the file was written to: when it was changed in nanoseconds, and, on a disk, when its contents were
    said to be written and its inode. What writes to a file can set the second back, but not the first."""

    @property
    def changed_ns(self) -> int:
        """When it was changed, by the clock of its storage."""
        return int(self.stamp.split("-", 1)[0])


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


def retrying(action: Callable[[], T], what: str) -> T:
    """Do it, again after an error of the storage that may pass.

    Raises:
        DataError: the file is missing, may not be read, or is damaged; trying again can't help.
        InfrastructureError: the storage still fails.
    """

    def act() -> T:
        try:
            return action()
        except OSError as error:
            # A disk's errors have numbers; those of Arrow's that have none are about what a file holds.
            if error.errno is None and not is_uri(what) and fault_of(error) is Fault.PASSING:
                raise DataError(f"{what}: is damaged ({first_line(error)})") from error
            raise

    with _explained(what):
        return faults.retrying(act, what)


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
