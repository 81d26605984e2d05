"""State to save, and a disk that fails where it is told to."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from orchestrator.checkpoint.storage import SystemCalls


@dataclass(frozen=True)
class Range:
    kind: str
    name: str
    shape: tuple[int, ...]
    start: int
    values: Tensor
    until_update: bool = True


def tensors(seed: int, rows: int = 7) -> dict[tuple[str, str], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made: dict[tuple[str, str], Tensor] = {
        (kind, f"model/layer.{index}"): torch.randn(rows, 5, generator=generator)
        for kind in ("parameter", "exp_avg")
        for index in range(7)
    }
    made["buffer", "model/count"] = torch.tensor(seed, dtype=torch.int64)
    made["buffer", "model/mask"] = torch.rand(9, generator=generator) > 0.5
    made["parameter", "model/half"] = torch.randn(3, generator=generator).bfloat16()
    return made


def ranges(whole: dict[tuple[str, str], Tensor], rank: int = 0, world_size: int = 1) -> Iterator[Range]:
    for (kind, name), tensor in whole.items():
        count = tensor.numel()
        start, stop = count * rank // world_size, count * (rank + 1) // world_size
        if start < stop:
            yield Range(
                kind, name, tuple(tensor.shape), start, tensor.reshape(-1)[start:stop], kind != "buffer"
            )


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
        self._unsynced_renames: list[tuple[Path, Path, bytes | None]] = []
        self._open: dict[int, Path] = {}

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
        for path in self._unsynced:
            if path.is_file():
                os.truncate(path, path.stat().st_size // 2)

    def open(self, path: Path, flags: int, mode: int = 0o644) -> int:
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
        self._unsynced_renames = [r for r in self._unsynced_renames if r[1].parent != path]

    def rename(self, old: Path, new: Path) -> None:
        if self._due() and self.mode != "full":
            self._fail()
        before = new.read_bytes() if new.exists() else None
        super().rename(old, new)
        self._unsynced_renames.append((old, new, before))

    def mkdir(self, path: Path) -> None:
        if self._due():
            self._fail()
        super().mkdir(path)
