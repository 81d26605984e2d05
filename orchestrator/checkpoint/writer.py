"""Saving: copy aside and write in the background, commit when every rank's file is whole.

Parameters and moments change in the optimizer's update alone, so they are copied beside the next forward and backward,
and only the update waits for the copy (as in DataStates-LLM, Maurya et al. 2024). What may change earlier is copied
at once.

Each rank's thread writes its own tensor file and then its index, which is its sign of being done; rank 0's thread
waits for all indexes and commits. Threads meet through files only, never through collectives, which the loop may be
using at the same time. Errors surface, on every rank alike, at the next ``save`` or ``wait``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.checkpoint import find
from orchestrator.checkpoint.format import (
    BLOCK_BYTES,
    COMMITTED,
    DTYPE_NAMES,
    MANIFEST,
    IndexedRange,
    Manifest,
    RankIndex,
    check_coverage,
    data_name,
    decode_index,
    encode,
    folder_name,
    hashed_blocks,
    index_name,
    safetensors_header,
    sha256,
)
from orchestrator.checkpoint.retention import prune
from orchestrator.checkpoint.staging import Staging
from orchestrator.errors import CheckpointError
from orchestrator.section import format_bytes
from orchestrator.state import StateRange
from orchestrator.storage import Store
from orchestrator.storage.faults import NO_ROOM

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.05


class Checkpoints:
    """The checkpoints of one run, as one rank of one attempt writes them."""

    def __init__(
        self,
        root: str,
        *,
        attempt: int,
        rank: int,
        world_size: int,
        group: dist.ProcessGroup | None = None,
        store: Store | None = None,
    ) -> None:
        """
        Args:
            root: path or URI that all ranks reach.
            attempt: from ``next_attempt``; the same on all ranks.
            rank: this process's.
            world_size: number of ranks.
            group: gloo group of all ranks; None for one process.
            store: instead of the one that ``root`` names.

        """
        assert world_size == 1 or group is not None
        self._store = store or find.store_of(root)
        self._attempt, self._rank, self._world_size, self._group = attempt, rank, world_size, group
        self._staging = Staging()
        self._pending: Save | None = None

    def save(
        self, step: int, state: Iterable[StateRange], meta: dict[str, Any], *, asynchronous: bool
    ) -> float:
        """Save ``state`` as the checkpoint of ``step``; returns the seconds that the caller was held up.

        Collective. First waits for the last save. ``asynchronous`` returns at once: call ``wait_until_copied``
        before parameters or moments change. The copy takes as much CPU memory as this rank saves, once for all
        saves. Otherwise returns when it is committed. A step that this attempt has committed already is left as it
        is. Raises CheckpointError, on all ranks, when this save (the last one, when asynchronous) failed; then
        nothing of it was committed.
        """
        begun = time.perf_counter()
        self.wait()
        if not self._already_committed(step):
            self._staging.restart()
            self._staging.follow()
            parts = [
                Part(describe(part), part.values.nbytes, values=part.values)
                if part.until_update
                else Part(describe(part), part.values.nbytes, copied=self._staging.copy(part.values))
                for part in state
            ]
            self._staging.finish()
            self._pending = Save(
                self._store, step, self._attempt, self._rank, self._world_size, meta, parts, self._staging
            )
            self._pending.start()
            if not asynchronous:
                self.wait()
        return time.perf_counter() - begun

    def wait_until_copied(self) -> float:
        """Until parameters and moments may change; returns the seconds that took. Not collective."""
        if self._pending is None or self._pending.copied.is_set():
            return 0.0
        begun = time.perf_counter()
        self._pending.copied.wait()
        return time.perf_counter() - begun

    def wait(self) -> None:
        """Until the last save is committed. Collective; returns at once where none is under way."""
        if self._pending is None:
            return
        save, self._pending = self._pending, None
        save.written.wait()
        if failure := self._first_failure(save.failure):
            save.abandon()
        else:
            # the marks of all ranks are there, so rank 0's commit ends by itself
            save.join()
            failure = self._first_failure(save.failure)
        save.join()
        if failure:
            if self._rank == 0:
                save.remove_remains()
            raise CheckpointError(failure)

    def prune(self, last: int, best: int, metric: str, mode: str) -> None:
        """Rank 0 removes what retention does not keep: see ``retention.prune``."""
        if self._rank == 0:
            prune(self._store, self._attempt, last=last, best=best, metric=metric, mode=mode)

    def close(self) -> None:
        """Wait for this rank's own writing to end, without a collective and without raising: for the way out
        after an error. After a run that went well call ``wait`` first.
        """
        if self._pending is not None:
            save, self._pending = self._pending, None
            save.written.wait()
            if save.failure is not None:
                save.abandon()
            save.join(timeout=30)
            save.abandon()
            save.join()

    def _already_committed(self, step: int) -> bool:
        found = self._rank == 0 and find.is_committed(self._store, step, self._attempt)
        if self._group is None:
            return found
        flag = torch.tensor([int(found)])
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        return bool(flag.item())

    def _first_failure(self, failure: str | None) -> str | None:
        """The failure of the lowest rank that has one, on every rank."""
        if self._group is None:
            return failure
        flag = torch.tensor([int(failure is not None)])
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        if not flag.item():
            return None
        failures: list[str | None] = [None] * self._world_size
        dist.all_gather_object(failures, failure, group=self._group)
        return next(text for text in failures if text is not None)


def describe(part: StateRange) -> IndexedRange:
    """The index's entry of a range, its place in the file still open."""
    return IndexedRange(
        kind=part.kind,
        name=part.name,
        dtype=DTYPE_NAMES[part.values.dtype],
        shape=tuple(part.shape),
        start=part.start,
        stop=part.start + part.values.numel(),
        offset=0,
    )


@dataclass
class Part:
    """A range on its way into a file."""

    entry: IndexedRange
    size: int
    """Bytes."""
    values: Tensor | None = None
    """As the engine holds them, until they are copied."""
    copied: Sequence[Tensor] = ()
    """Then as bytes on the CPU, in pieces."""


class Save:
    """One save of one rank, on a thread of its own."""

    def __init__(
        self,
        store: Store,
        step: int,
        attempt: int,
        rank: int,
        world_size: int,
        meta: dict[str, Any],
        parts: Sequence[Part],
        staging: Staging,
    ) -> None:
        self._store, self._step, self._attempt = store, step, attempt
        self._rank, self._world_size, self._meta = rank, world_size, meta
        self._parts, self._staging = parts, staging
        self._size = sum(part.size for part in parts)
        self._folder = folder_name(step, attempt)
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"checkpoint-{step}", daemon=True)
        self.copied = threading.Event()
        """The state is no longer needed: it is copied, or will not be written."""
        self.written = threading.Event()
        """This rank's own files are whole, or failed."""
        self.failure: str | None = None
        """Why it failed, in one sentence; read it after ``written`` or ``join``."""

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def abandon(self) -> None:
        """Rank 0 no longer waits for the other ranks' marks."""
        self._abandoned.set()

    def join(self, timeout: float | None = None) -> None:
        """Until the thread has ended."""
        self._thread.join(timeout)

    def remove_remains(self) -> None:
        """Remove what was written of a save that failed; what can't be removed is left for ``prune``."""
        with contextlib.suppress(OSError):
            if not find.is_committed(self._store, self._step, self._attempt):
                self._store.remove(self._folder)

    def _run(self) -> None:
        self.failure = self._failure_of(self._copy)
        self.copied.set()
        if sys.platform == "linux":  # where threads have priorities of their own: training goes first
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        if self.failure is None:
            self.failure = self._failure_of(self._write_own)
        self.written.set()
        if self._rank == 0 and self.failure is None:
            self.failure = self._failure_of(self._commit_when_marked)

    def _failure_of(self, action: Callable[[], None]) -> str | None:
        """Do it; the sentence of what went wrong, or None."""
        try:
            action()
        except CheckpointError as error:
            return error.message
        except OSError as error:
            return self._sentence(error)
        except BaseException as error:  # whatever it is, the ranks that wait must hear of it
            log.exception("writing the checkpoint of step %d failed", self._step)
            return self._sentence(error)
        return None

    def _copy(self) -> None:
        self._staging.enter_thread()
        for part in self._parts:
            if part.values is not None:
                part.copied = self._staging.copy(part.values)
                part.values = None
        self._staging.finish()

    def _write_own(self) -> None:
        self._refuse_if_replaced()
        sized = [(part.entry, part.size) for part in self._parts]
        header = safetensors_header(
            [
                (f"{e.kind}:{e.name}[{e.start}:{e.stop}]", e.dtype, [e.stop - e.start], size)
                for e, size in sized
            ]
        )
        ranges, offset = [], len(header)
        for entry, size in sized:
            ranges.append(entry.model_copy(update={"offset": offset}))
            offset += size
        block_sha256: list[str] = []
        chunks: list[Any] = [header, *(piece.numpy().data for part in self._parts for piece in part.copied)]
        self._store.write_chunks(
            f"{self._folder}/{data_name(self._rank)}", hashed_blocks(chunks, block_sha256)
        )
        index = RankIndex(
            rank=self._rank,
            bytes=offset,
            block_bytes=BLOCK_BYTES,
            block_sha256=tuple(block_sha256),
            ranges=tuple(ranges),
        )
        self._store.write(f"{self._folder}/{index_name(self._rank)}", encode(index))

    def _wait_for_marks(self) -> bool:
        """Until every rank's index is there; False where the save was given up meanwhile."""
        wanted = {index_name(rank) for rank in range(self._world_size)}
        while not wanted <= set(self._store.list(self._folder)):
            if self._abandoned.wait(_POLL_SECONDS):
                return False
        return True

    def _commit_when_marked(self) -> None:
        if not self._wait_for_marks():
            return
        contents = [
            self._store.read(f"{self._folder}/{index_name(rank)}") for rank in range(self._world_size)
        ]
        check_coverage([decode_index(content, rank) for rank, content in enumerate(contents)])
        manifest = encode(
            Manifest(
                step=self._step,
                attempt=self._attempt,
                index_sha256=tuple(sha256(content) for content in contents),
                meta=self._meta,
            )
        )
        self._store.write(f"{self._folder}/{MANIFEST}", manifest)
        self._refuse_if_replaced()
        self._store.write(f"{self._folder}/{COMMITTED}", find.commit_marker(manifest))

    def _refuse_if_replaced(self) -> None:
        newest = find.newest_attempt(self._store)
        if newest > self._attempt:
            raise CheckpointError(
                f"attempt {self._attempt} of this run was replaced by attempt {newest} and may not write checkpoints"
            )

    def _sentence(self, error: BaseException) -> str:
        what = f"the checkpoint of step {self._step} could not be written to {self._store.root}"
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return (
                f"{what}: no space left for rank {self._rank}'s {format_bytes(self._size)};"
                " free some, or keep fewer (checkpoint.keep)"
            )
        return f"{what} by rank {self._rank}: {error or type(error).__name__}"
