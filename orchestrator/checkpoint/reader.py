"""Reading any range of any saved tensor, verified."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from orchestrator.checkpoint.find import read_block, read_indexes, read_manifest, store_of
from orchestrator.checkpoint.format import DTYPES, Checkpoint, check_coverage
from orchestrator.errors import CheckpointError
from orchestrator.storage import split_name

_CACHED_BLOCKS = 8


class CheckpointReader:
    """A StateReader over a checkpoint. Every block is verified before it is used; eight are kept (32 MiB)."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        root, self._folder = split_name(checkpoint.path)
        self._path = checkpoint.path
        self._store = store_of(root)
        try:
            manifest = read_manifest(self._store, self._folder)
            self._indexes = read_indexes(self._store, self._folder, manifest)
            self._placed = check_coverage(self._indexes)
        except (CheckpointError, OSError) as error:
            raise CheckpointError(f"checkpoint {self._path}: {error}") from error
        self._blocks: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._tensors = {
            key: (parts[0][1].shape, DTYPES[parts[0][1].dtype]) for key, parts in self._placed.items()
        }

    def __enter__(self) -> CheckpointReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._blocks.clear()

    def tensors(self) -> Mapping[tuple[str, str], tuple[tuple[int, ...], torch.dtype]]:
        """(kind, name) -> shape and dtype of all that was saved."""
        return self._tensors

    def read(self, kind: str, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor, on the CPU. Raises CheckpointError where damaged."""
        if (kind, name) not in self._placed:
            raise CheckpointError(f"checkpoint {self._path}: it holds no {kind} {name}")
        parts = self._placed[kind, name]
        dtype = self._tensors[kind, name][1]
        assert 0 <= start <= stop <= parts[-1][1].stop, (kind, name, start, stop)
        result = torch.empty(stop - start, dtype=dtype)
        target = result.view(torch.uint8).numpy().data if stop > start else memoryview(b"")
        for rank, part in parts:
            begin, end = max(start, part.start), min(stop, part.stop)
            if begin < end:
                source = part.offset + (begin - part.start) * dtype.itemsize
                place = (begin - start) * dtype.itemsize
                self._copy(rank, source, target[place : place + (end - begin) * dtype.itemsize])
        return result

    def _copy(self, rank: int, offset: int, target: memoryview) -> None:
        """Fill ``target`` from byte ``offset`` of a rank's file."""
        size = self._indexes[rank].block_bytes
        done = 0
        while done < len(target):
            block, within = divmod(offset + done, size)
            content = memoryview(self._block(rank, block))[within : within + len(target) - done]
            target[done : done + len(content)] = content
            done += len(content)

    def _block(self, rank: int, block: int) -> bytes:
        if (rank, block) not in self._blocks:
            try:
                content = read_block(self._store, self._folder, self._indexes[rank], block)
            except (CheckpointError, OSError) as error:
                raise CheckpointError(f"checkpoint {self._path}: {error}") from error
            self._blocks[rank, block] = content
            if len(self._blocks) > _CACHED_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end((rank, block))
        return self._blocks[rank, block]


def open_reader(checkpoint: Checkpoint) -> CheckpointReader:
    """A reader of a committed checkpoint. Raises CheckpointError where its manifest or indexes are damaged."""
    return CheckpointReader(checkpoint)
