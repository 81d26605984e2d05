"""Where checkpoint files lie: a local or shared disk, or an object store, behind the same few verbs.

Paths given to a Storage are relative to its root, with ``/``. ``put`` is atomic: a reader sees the whole file or
none. Errors are OSError as the store raised it; callers turn them into sentences.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from orchestrator.errors import CheckpointError
from orchestrator.object_stores import names_in, open_root, read_file, remove_all


class Storage(Protocol):
    """The verbs that checkpoints need."""

    root: str

    def write(self, path: str, chunks: Iterable[memoryview | bytes]) -> None:
        """Write a file that nobody reads before a later ``put`` says so; durable on return."""
        ...

    def put(self, path: str, content: bytes) -> None:
        """Write a small file: atomic, durable on return, replaces one of the same name."""
        ...

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file from ``offset``, fewer at its end. Raises FileNotFoundError."""
        ...

    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none."""
        ...

    def list(self, path: str) -> list[str]:
        """Names of what lies directly in a folder; empty where there is no such folder."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all in it; nothing happens where there is none."""
        ...

    def claim(self, path: str) -> bool:
        """Create an empty entry that only one caller ever gets: False where another has it."""
        ...


class SystemCalls:
    """The calls that a local save makes, in one place so that tests can make any of them fail."""

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
        """As os.open."""
        return os.open(path, flags, mode)

    def write(self, descriptor: int, data: memoryview) -> int:
        """As os.write."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """As os.fsync."""
        os.fsync(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """As Path.replace."""
        old.replace(new)

    def mkdir(self, path: Path) -> None:
        """As os.mkdir."""
        path.mkdir()


class LocalStorage:
    """Files on a disk that all ranks see."""

    def __init__(self, root: str, calls: SystemCalls | None = None) -> None:
        self.root = root
        self._calls = calls or SystemCalls()

    def _at(self, path: str) -> Path:
        return Path(self.root, path)

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            with contextlib.suppress(FileExistsError):
                self._calls.mkdir(folder)
                self._sync_folder(folder.parent)

    def _sync_folder(self, folder: Path) -> None:
        descriptor = self._calls.open(folder, os.O_RDONLY)
        try:
            self._calls.fsync(descriptor)
        finally:
            os.close(descriptor)

    def write(self, path: str, chunks: Iterable[memoryview | bytes]) -> None:
        """See Storage."""
        target = self._at(path)
        self._make_folder(target.parent)
        descriptor = self._calls.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            for chunk in chunks:
                view = memoryview(chunk).cast("B")
                while view:
                    view = view[self._calls.write(descriptor, view) :]
            self._calls.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._sync_folder(target.parent)

    def put(self, path: str, content: bytes) -> None:
        """See Storage: temporary name, fsync, rename, fsync of the folder."""
        temporary = f"{path}.{secrets.token_hex(4)}.tmp"
        try:
            self.write(temporary, [content])
            self._calls.rename(self._at(temporary), self._at(path))
        except OSError:
            with contextlib.suppress(OSError):
                self._at(temporary).unlink(missing_ok=True)
            raise
        self._sync_folder(self._at(path).parent)

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Storage."""
        with self._at(path).open("rb") as file:
            file.seek(offset)
            return file.read(-1 if length is None else length)

    def size(self, path: str) -> int | None:
        """See Storage."""
        try:
            return self._at(path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def list(self, path: str) -> list[str]:
        """See Storage."""
        try:
            return sorted(entry.name for entry in self._at(path).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def remove(self, path: str) -> None:
        """See Storage. Never follows a link."""
        target = self._at(path)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def claim(self, path: str) -> bool:
        """See Storage: mkdir is exclusive on local and network file systems alike."""
        target = self._at(path)
        self._make_folder(target.parent)
        try:
            self._calls.mkdir(target)
        except FileExistsError:
            return False
        self._sync_folder(target.parent)
        return True


class ObjectStorage:
    """Objects below a prefix of S3 or GCS, through pyarrow: an upload becomes visible whole, when it is closed."""

    def __init__(self, root: str) -> None:
        from pyarrow import fs

        self.root = root
        self._files: Any = fs
        try:
            self._store, self._prefix = open_root(root)
        except (ValueError, OSError) as error:
            raise CheckpointError(f"checkpoint storage {root!r} can't be opened: {error}") from error

    def _at(self, path: str) -> str:
        return f"{self._prefix}/{path}".rstrip("/")

    def write(self, path: str, chunks: Iterable[memoryview | bytes]) -> None:
        """See Storage."""
        stream: BinaryIO
        with self._store.open_output_stream(self._at(path), compression=None) as stream:
            for chunk in chunks:
                stream.write(chunk)

    def put(self, path: str, content: bytes) -> None:
        """See Storage."""
        self.write(path, [content])

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Storage."""
        return read_file(self._store, self._at(path), offset, length)

    def size(self, path: str) -> int | None:
        """See Storage."""
        info = self._store.get_file_info(self._at(path))
        return int(info.size) if info.type == self._files.FileType.File else None

    def list(self, path: str) -> list[str]:
        """See Storage."""
        return names_in(self._store, self._at(path))

    def remove(self, path: str) -> None:
        """See Storage."""
        remove_all(self._store, self._at(path))

    def claim(self, path: str) -> bool:
        """See Storage. Object stores have no exclusive creation through pyarrow, so: write a ticket, then look.

        Who sees another's ticket beside its own takes its own back and gives up, so at most one keeps it (of
        two, the one that looks last sees both). Where all gave up, each tries again after a random wait.
        """
        for _ in range(20):
            if self.list(path):
                return False
            ticket = f"{path}/{secrets.token_hex(8)}"
            self.put(ticket, b"claimed")
            if len(self.list(path)) == 1:
                return True
            self.remove(ticket)
            time.sleep(0.05 + secrets.randbelow(1000) / 2000)
        raise CheckpointError(
            f"checkpoint storage {self.root!r}: too many writers want {path}; start one run at a time"
        )


def storage_at(root: str) -> Storage:
    """The storage below ``root``: a path, ``file://``, ``s3://`` or ``gs://``."""
    if root.startswith("file://"):
        return LocalStorage(root.removeprefix("file://"))
    return ObjectStorage(root) if "://" in root else LocalStorage(root)
