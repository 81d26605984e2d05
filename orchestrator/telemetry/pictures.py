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
_ROOM_FOR_TEXT = 30
"""Pixels of a cell."""
_DARK = 0.5
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


def of_matrix(counts: np.ndarray[Any, Any], names: Sequence[str]) -> Pixels:
    """Samples by true class (rows) and predicted class (columns): the darker, the larger the share of its row; where there
    is room, with the numbers.
    """
    from PIL import Image, ImageDraw

    side = max(4, min(48, _SHEET_WIDTH // max(len(counts), 1)))
    left, top = 120, 40
    size = side * len(counts)
    image = Image.new("RGB", (left + size + _MARGIN, top + size + _MARGIN), "white")
    draw = ImageDraw.Draw(image)
    draw.text((left, 4), "predicted", fill="black")
    draw.text((4, 4), "true", fill="black")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    has_room = side >= _ROOM_FOR_TEXT
    for row, (line, of_row) in enumerate(zip(counts, shares, strict=True)):
        y = top + row * side
        if has_room:
            draw.text((4, y + side // 3), names[row][:18], fill="black")
            draw.text((left + row * side + 2, 22), names[row][: side // 7], fill="black")
        for column, (count, share) in enumerate(zip(line, of_row, strict=True)):
            x, shade = left + column * side, int(255 * (1 - share))
            draw.rectangle((x, y, x + side - 1, y + side - 1), fill=(shade, shade, 255), outline="lightgray")
            if has_room:
                draw.text((x + 3, y + side // 3), f"{count:.0f}", fill="white" if share > _DARK else "black")
    return np.asarray(image)


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
