"""Store: where a run's records, its checkpoints and the cache of its data lie, behind one handful of verbs."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

Chunk = bytes | memoryview


class StoredFile(NamedTuple):
    """A file as the storage lists it."""

    path: str
    """Relative to the store's root."""
    size_bytes: int
    changed: float
    """When it was last written, in seconds since the epoch."""


class Store(ABC):
    """Files below a root, on a disk or in an object store.

    Paths are relative to the root, with ``/``. There is one rule of durability: a reader sees a file whole or not at
    all, the old one or the new one, and what a verb has written when it returns outlives a loss of power. Errors are
    OSError, as the storage raised it; what may pass is tried again, by the table in ``faults``.
    """

    root: str
    """A path or URI."""

    @abstractmethod
    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a file from ``offset``, fewer at its end. Raises FileNotFoundError."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None:
        """Write a file, in place of one of the same name."""

    @abstractmethod
    def create(self, path: str, content: bytes) -> bool:
        """Write a file that must not be there yet: of all callers one gets True, the others write nothing."""

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Bytes of a file; None where there is none."""

    @abstractmethod
    def list(self, path: str) -> list[str]:
        """Names of what lies directly in a folder, sorted; empty where there is no such folder."""

    @abstractmethod
    def files(self, path: str) -> Sequence[StoredFile]:
        """All files below a folder, however deep, sorted by path; empty where there is no such folder."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Remove a file or a folder with all in it; nothing happens where there is none."""

    def write_chunks(self, path: str, chunks: Iterable[Chunk]) -> None:
        """As ``write``; stores of large files hold one chunk at a time, and try nothing again."""
        self.write(path, b"".join(chunks))

    @contextmanager
    def draft(self, path: str) -> Iterator[Path]:
        """As ``write``, for code that writes files itself: fill the local file that is given; when the block ends
        well it becomes ``path``, else nothing does.
        """
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder, "draft")
            yield draft
            self.write(path, draft.read_bytes())

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        return self.size(path) is not None
