"""Runs of whole rows of about a megabyte, of a file that says nowhere how many rows it has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from orchestrator.data.files import FileFacts
from orchestrator.data.sources.index import DataFile

GROUP_BYTES = 2**20


def grouped(facts: FileFacts, ends: Iterable[np.ndarray], digest: Any, *, header: bool = False) -> DataFile:
    """A file with its groups.

    Args:
        facts: of the file.
        ends: the byte after each row, a piece of the file at a time, none of them empty, int64.
        digest: of what has been read for them; taken when all are there.
        header: the first row is no data.

    """
    marks: list[int] = [] if header else [0]
    counts: list[int] = []
    pending = end = 0
    for piece in ends:
        end, left = int(piece[-1]), piece
        if not marks:
            marks.append(int(left[0]))
            left = left[1:]
        while len(left):
            # rows up to the first that ends past the group's size
            cut = int(np.searchsorted(left, marks[-1] + GROUP_BYTES)) + 1
            if cut > len(left):
                pending += len(left)
                break
            counts.append(pending + cut)
            marks.append(int(left[cut - 1]))
            left, pending = left[cut:], 0
    if pending:
        counts.append(pending)
        marks.append(end)
    return DataFile(
        path=facts.path,
        bytes=facts.bytes,
        stamp=facts.stamp,
        digest=digest.hexdigest(),
        rows=tuple(counts),
        marks=tuple(marks or (0,)),
    )
