"""A disk that fails where it is told to: the system calls of a LocalStore."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orchestrator.storage import LocalStore, Store
from orchestrator.storage.local import SystemCalls


class Killed(BaseException):
    """The process is gone: no code after this runs."""


class UnsyncedCalls(SystemCalls):
    """A disk that is fast, since nobody pulls its plug."""

    def fsync(self, descriptor: int) -> None:
        pass


class FaultyCalls(UnsyncedCalls):
    """Fails at the ``at``-th call. ``kill`` lets nothing happen afterwards; ``power`` also loses what was not synced."""

    def __init__(self, mode: str, at: int) -> None:
        self.mode, self.at, self.calls = mode, at, 0
        self._dead = False
        self._unsynced: dict[Path, None] = {}
        self._synced: set[Path] = set()
        self._unsynced_renames: list[tuple[Path, Path, bytes | None]] = []
        self._unsynced_links: list[Path] = []
        self._unsynced_folders: list[Path] = []
        self._open: dict[int, Path] = {}

    def lose_power(self) -> None:
        """Now."""
        self._fail()

    def _due(self) -> bool:
        if self._dead:
            raise Killed
        self.calls += 1
        return self.calls == self.at or (self.mode == "full" and self.calls >= self.at)

    def _fail(self) -> None:
        if self.mode == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.mode == "error":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._dead = True
        if self.mode == "power":
            self._lose()
        raise Killed

    def _lose(self) -> None:
        for old, new, before in reversed(self._unsynced_renames):
            if new.exists():
                new.replace(old)
            if before is not None:
                new.write_bytes(before)
        for path in self._unsynced_links:
            path.unlink()
        for path in self._unsynced_folders:
            shutil.rmtree(path, ignore_errors=True)
        for path in self._unsynced:
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        if self._due() and self.mode != "full":
            self._fail()
        descriptor = super().open(path, flags, mode)
        self._open[descriptor] = path
        if flags & os.O_WRONLY:
            self._unsynced[path] = None
        return descriptor

    def write(self, descriptor: int, data: memoryview) -> int:
        if self._due():
            super().write(descriptor, data[: len(data) // 2])
            self._fail()
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        if self._due() and self.mode != "full":
            self._fail()
        super().fsync(descriptor)
        path = self._open[descriptor]
        self._unsynced.pop(path, None)
        self._synced.add(path)
        self._unsynced_renames = [r for r in self._unsynced_renames if r[1].parent != path]
        self._unsynced_links = [link for link in self._unsynced_links if link.parent != path]
        self._unsynced_folders = [made for made in self._unsynced_folders if made.parent != path]

    def rename(self, old: Path, new: Path) -> None:
        if self._due() and self.mode != "full":
            self._fail()
        before = new.read_bytes() if new.exists() else None
        super().rename(old, new)
        self._unsynced_renames.append((old, new, before))
        self._note_content(old, new)

    def link(self, old: Path, new: Path) -> None:
        if self._due() and self.mode != "full":
            self._fail()
        super().link(old, new)
        self._unsynced_links.append(new)
        self._note_content(old, new)

    def unlink(self, path: Path) -> None:
        if self._due() and self.mode != "full":
            self._fail()
        super().unlink(path)

    def _note_content(self, old: Path, new: Path) -> None:
        """A name can outlive a loss of power whose content does not, whoever wrote that."""
        if old not in self._synced:
            self._unsynced[new] = None

    def mkdir(self, path: Path) -> None:
        if self._due():
            self._fail()
        super().mkdir(path)
        self._unsynced_folders.append(path)


def at_every_point(
    tmp_path: Path, mode: str, before: Callable[[Store], Any], action: Callable[[Store], Any]
) -> Iterator[tuple[Path, bool]]:
    """The folder that is left when the n-th call fails, for every n, and whether the action said that it failed."""
    counted = FaultyCalls("none", -1)
    before(LocalStore(str(tmp_path / "counted")))
    action(LocalStore(str(tmp_path / "counted"), counted))
    assert counted.calls >= 5
    for point in range(1, counted.calls + 1):
        root = tmp_path / f"{mode}-{point}"
        before(LocalStore(str(root)))
        try:
            action(LocalStore(str(root), FaultyCalls(mode, point)))
            yield root, False
        except (OSError, Killed):
            yield root, True
