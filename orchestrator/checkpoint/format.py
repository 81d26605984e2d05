"""What lies in a checkpoint folder ``step-00000100.attempt-3/``, and how it is read without trusting it.

==========================  ==========================================================================
``rank-00000.safetensors``  the ranges that rank 0 holds, a plain safetensors file; likewise each rank
``rank-00000.json``         RankIndex: which ranges, where in the file, and the SHA-256 of every block
``manifest.json``           Manifest: step, attempt, what the loop keeps, and the SHA-256 of each index
``COMMITTED``               written last: the SHA-256 of the manifest; without it there is no checkpoint
==========================  ==========================================================================

So every byte is under a SHA-256, up to the commit marker's own. File names are computed, never taken from a file;
nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, ValidationError

from orchestrator.errors import CheckpointError
from orchestrator.section import Section

FORMAT_VERSION = 1
BLOCK_BYTES = 4 << 20
"""A file is checked in blocks of this size, so that reading a range verifies little more than the range."""
MANIFEST, COMMITTED = "manifest.json", "COMMITTED"

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""safetensors' names of number formats."""
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint."""

    step: int
    attempt: int
    path: str
    """Its folder: a path or URI."""
    meta: dict[str, Any]
    """What the loop keeps beside the tensors."""


class IndexedRange(Section):
    """One range in a rank's file."""

    kind: str
    """``parameter``, ``buffer`` or the name of a moment."""
    name: str
    """``module/parameter.path``."""
    dtype: str
    """Number format, by safetensors' name."""
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    start: int = Field(ge=0)
    """First element of the range in the flattened tensor."""
    stop: int = Field(ge=0)
    """The element after its last."""
    offset: int = Field(ge=0)
    """Byte of the file where it begins."""


class RankIndex(Section):
    """What one rank wrote."""

    rank: int = Field(ge=0)
    """The rank."""
    bytes: int = Field(ge=0)
    """Size of its file."""
    block_bytes: int = Field(ge=1)
    """Size of a checked block."""
    block_sha256: tuple[str, ...]
    """SHA-256 of each block, the last one shorter."""
    ranges: tuple[IndexedRange, ...]
    """What is in the file."""


class Manifest(Section):
    """A whole checkpoint."""

    version: int = FORMAT_VERSION
    """Version of this format."""
    step: int = Field(ge=0)
    """Optimizer steps made."""
    attempt: int = Field(ge=0)
    """The attempt that wrote it."""
    index_sha256: tuple[str, ...]
    """SHA-256 of each rank's index, in order of ranks."""
    meta: dict[str, Any]
    """What the loop keeps beside the tensors."""


def folder_name(step: int, attempt: int) -> str:
    """Name of a checkpoint's folder."""
    return f"step-{step:08d}.attempt-{attempt}"


def parse_folder_name(name: str) -> tuple[int, int] | None:
    """(step, attempt) of a folder's name, or None where it is not a checkpoint's."""
    match = re.fullmatch(r"step-(\d{8,12})\.attempt-(\d{1,9})", name, re.ASCII)
    return (int(match[1]), int(match[2])) if match else None


def data_name(rank: int) -> str:
    """Name of a rank's tensor file."""
    return f"rank-{rank:05d}.safetensors"


def index_name(rank: int) -> str:
    """Name of a rank's index, which is also its sign that the tensor file is whole."""
    return f"rank-{rank:05d}.json"


def sha256(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()


def encode(section: Section) -> bytes:
    """A section as JSON; numbers that are not finite as NaN and Infinity, which Python and pydantic read."""
    return json.dumps(section.model_dump(mode="json"), separators=(",", ":")).encode()


def decode_manifest(content: bytes) -> Manifest:
    """Raises CheckpointError where it is not a manifest of this version."""
    try:
        manifest = Manifest.model_validate_json(content)
    except (ValidationError, RecursionError) as error:
        raise CheckpointError(f"its {MANIFEST} is damaged: {_first_line(error)}") from error
    if manifest.version != FORMAT_VERSION:
        raise CheckpointError(
            f"its format is version {manifest.version} and this trainwright reads version {FORMAT_VERSION}"
        )
    return manifest


def decode_index(content: bytes, rank: int) -> RankIndex:
    """Raises CheckpointError where it is not a whole index of ``rank``."""
    try:
        index = RankIndex.model_validate_json(content)
    except (ValidationError, RecursionError) as error:
        raise CheckpointError(f"its {index_name(rank)} is damaged: {_first_line(error)}") from error
    blocks = -(-index.bytes // index.block_bytes)
    if index.rank != rank or len(index.block_sha256) != blocks or index.block_bytes > 1 << 30:
        raise CheckpointError(f"its {index_name(rank)} contradicts itself")
    for entry in index.ranges:
        if entry.dtype not in DTYPES:
            raise CheckpointError(
                f"its {index_name(rank)} names the unknown number format {entry.dtype[:20]!r}"
            )
        length = (entry.stop - entry.start) * DTYPES[entry.dtype].itemsize
        if length <= 0 or entry.offset + length > index.bytes or any(size < 0 for size in entry.shape):
            raise CheckpointError(f"its {index_name(rank)} places {entry.kind} {entry.name} outside the file")
    return index


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def check_coverage(indexes: Sequence[RankIndex]) -> dict[tuple[str, str], list[tuple[int, IndexedRange]]]:
    """(kind, name) -> its (rank, range) in order of elements, every element exactly once.

    Raises CheckpointError where one is missing, there twice, or the ranks disagree about the tensor.
    """
    placed: dict[tuple[str, str], list[tuple[int, IndexedRange]]] = {}
    for index in indexes:
        for entry in index.ranges:
            placed.setdefault((entry.kind, entry.name), []).append((index.rank, entry))
    for (kind, name), parts in placed.items():
        parts.sort(key=lambda part: part[1].start)
        first = parts[0][1]
        position = 0
        for _, part in parts:
            if part.start != position or (part.shape, part.dtype) != (first.shape, first.dtype):
                raise CheckpointError(f"the ranges of {kind} {name} don't fit together at element {position}")
            position = part.stop
        total = 1
        for size in first.shape:
            total *= size
        if position != total:
            raise CheckpointError(f"{kind} {name} has {total} elements and only {position} are there")
    return placed


def safetensors_header(tensors: Sequence[tuple[str, str, Sequence[int], int]]) -> bytes:
    """The header of a safetensors file: length, then JSON padded to eight bytes.

    Args:
        tensors: (name, number format, shape, bytes), in the order of the data.

    """
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, dtype, shape, size in tensors:
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def hashed_blocks(
    chunks: Iterable[memoryview | bytes], block_sha256: list[str], block_bytes: int = BLOCK_BYTES
) -> Iterator[memoryview]:
    """Pass the chunks through, at most a block at a time, and append each block's SHA-256 to ``block_sha256``."""
    digest, room = hashlib.sha256(), block_bytes
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        while view:
            part, view = view[:room], view[room:]
            digest.update(part)
            room -= len(part)
            yield part
            if room == 0:
                block_sha256.append(digest.hexdigest())
                digest, room = hashlib.sha256(), block_bytes
    if room < block_bytes:
        block_sha256.append(digest.hexdigest())
