"""Generated samples as pictures for the tracker: pixels, or lines of a series drawn as a small chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from orchestrator.models.base import Sample

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

_SMALLEST_SIDE = 128
_GAP, _SHEET_WIDTH = 8, 1600
_CHART_HEIGHT, _CHART_WIDTH, _MARGIN = 240, 480, 12
_COLORS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75))


def of_sample(sample: Sample) -> Pixels:
    """Pixels (H, W, 3) uint8 of an image or series sample."""
    return of_image(sample.data) if sample.kind == "image" else of_series(sample.data)


def of_image(image_HWC: np.ndarray[Any, Any]) -> Pixels:
    """An image in [0, 1] of shape (H, W, 1 or 3), enlarged by whole pixels until a person sees it."""
    pixels = np.clip(np.rint(image_HWC * 255), 0, 255).astype(np.uint8)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    factor = max(1, -(-_SMALLEST_SIDE // min(pixels.shape[:2])))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def of_series(series_LT: np.ndarray[Any, Any]) -> Pixels:
    """Lines of shape (lines, steps) as a chart. matplotlib would take seconds to import beside the training loop."""
    canvas = np.full((_CHART_HEIGHT, _CHART_WIDTH, 3), 255, np.uint8)
    finite = series_LT[np.isfinite(series_LT)]
    if finite.size == 0 or series_LT.shape[1] < 2:
        return canvas
    low, high = float(finite.min()), float(finite.max())
    span = (high - low) or 1.0
    columns = np.arange(_MARGIN, _CHART_WIDTH - _MARGIN)
    at = (columns - _MARGIN) / (len(columns) - 1) * (series_LT.shape[1] - 1)
    for index, line in enumerate(series_LT):
        heights = np.interp(at, np.arange(len(line)), line)
        drawable = np.isfinite(heights)
        rows = np.full(len(columns), _MARGIN, dtype=int)
        rows[drawable] = (
            _CHART_HEIGHT - 1 - _MARGIN - (heights[drawable] - low) / span * (_CHART_HEIGHT - 1 - 2 * _MARGIN)
        ).astype(int)
        color = _COLORS[index % len(_COLORS)]
        for i in range(1, len(columns)):
            if drawable[i] and drawable[i - 1]:
                top, bottom = sorted((rows[i - 1], rows[i]))
                canvas[top : bottom + 2, columns[i]] = color
    return canvas


def sheet(shown: Sequence[Pixels]) -> Pixels:
    """Pictures beside and below each other, row by row, on white; each has room for the largest."""
    height = max(picture.shape[0] for picture in shown) + _GAP
    width = max(picture.shape[1] for picture in shown) + _GAP
    columns = max(1, min(len(shown), _SHEET_WIDTH // width, math.ceil(math.sqrt(len(shown)))))
    rows = -(-len(shown) // columns)
    canvas = np.full((rows * height + _GAP, columns * width + _GAP, 3), 255, np.uint8)
    for index, picture in enumerate(shown):
        top, left = _GAP + index // columns * height, _GAP + index % columns * width
        canvas[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return canvas
