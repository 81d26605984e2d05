"""Columns of encoded bytes, which are decoded row by row: one visible table."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from orchestrator.data.columns.audio import decode_audio
from orchestrator.data.columns.images import decode_image
from orchestrator.data.columns.layout import TensorLayout

Decoder = Callable[[bytes | None, TensorLayout, Callable[[int], str], int], tuple[np.ndarray, ...]]
"""(encoded, layout, where a row is, row) -> the sample's values, and those of the layout that may stand beside it. Raises
DataError."""

DECODERS: dict[str, Decoder] = {
    "image": decode_image,
    "audio": decode_audio,
}
"""Kind of layout -> what makes a sample's tensors of its bytes."""


def decoded_together(layouts: Sequence[TensorLayout]) -> list[tuple[TensorLayout, ...]]:
    """The encoded ones, each with the one that its bytes are decoded for as well: a sound with its length."""
    groups = []
    lengths = [one for one in layouts if one.kind == "audio_length"]
    for layout in layouts:
        if layout.kind in DECODERS:
            beside = [one for one in lengths if layout.kind == "audio" and one.columns == layout.columns]
            groups.append((layout, *beside))
    return groups


def decode(
    encoded: bytes | None, layout: TensorLayout, where: Callable[[int], str], row: int
) -> tuple[np.ndarray, ...]:
    """A sample's tensors, of the layout and of the one that may stand beside it. Raises DataError where it can't be decoded,
    with the words of ``where``.
    """
    return DECODERS[layout.kind](encoded, layout, where, row)
