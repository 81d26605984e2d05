"""Columns of encoded bytes, which are decoded row by row: one visible table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from orchestrator.data.columns.audio import decode_audio, decode_length
from orchestrator.data.columns.images import decode_image
from orchestrator.data.columns.layout import TensorLayout

Decoder = Callable[[bytes | None, TensorLayout, Callable[[int], str], int], np.ndarray]
"""(encoded, layout, where a row is, row) -> the sample's values. Raises DataError."""

DECODERS: dict[str, Decoder] = {
    "image": decode_image,
    "audio": decode_audio,
    "audio_length": decode_length,
}
"""Kind of layout -> what makes a sample's tensor of its bytes."""


def decode(encoded: bytes | None, layout: TensorLayout, where: Callable[[int], str], row: int) -> np.ndarray:
    """A sample's tensor. Raises DataError where it can't be decoded, with the words of ``where``."""
    return DECODERS[layout.kind](encoded, layout, where, row)
