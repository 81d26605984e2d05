"""How far two saved states are from each other, read in pieces."""

from __future__ import annotations

import math
from collections.abc import Iterator

from orchestrator.checkpoint.format import Checkpoint
from orchestrator.checkpoint.reader import CheckpointReader
from orchestrator.state import AVERAGE


def relative_distance(one: Checkpoint, other: Checkpoint) -> float:
    """Euclidean norm of the difference of all parameters and their averages, relative to that of them all."""
    difference = size = 0.0
    with CheckpointReader(one) as mine, CheckpointReader(other) as theirs:
        for kind, name, start, stop in _pieces(theirs):
            if kind in ("parameter", AVERAGE):
                a, b = (r.read(kind, name, start, stop).double() for r in (mine, theirs))
                difference += float((a - b).square().sum())
                size += float(b.square().sum())
    return math.sqrt(difference / size) if size else 0.0


def unequal_elements(one: Checkpoint, other: Checkpoint) -> float:
    """How many elements of the whole state are not equal bit for bit; infinite where they hold other tensors."""
    count = 0
    with CheckpointReader(one) as mine, CheckpointReader(other) as theirs:
        if mine.tensors() != theirs.tensors():
            return math.inf
        for kind, name, start, stop in _pieces(theirs):
            count += int((mine.read(kind, name, start, stop) != theirs.read(kind, name, start, stop)).sum())
    return float(count)


def _pieces(reader: CheckpointReader) -> Iterator[tuple[str, str, int, int]]:
    """Every tensor in pieces of at most 16 MiB."""
    for (kind, name), (shape, _) in reader.tensors().items():
        total = math.prod(shape)
        for start in range(0, total, 4 << 20):
            yield kind, name, start, min(start + (4 << 20), total)
