"""Encoded images to pixels."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image

from orchestrator.data.columns.layout import TensorLayout
from orchestrator.errors import DataError


def decode_image(encoded: bytes | None, layout: TensorLayout, where: Any, row: int) -> np.ndarray:
    """Pixels of an image as uint8 (channels, height, width), brought to the layout's size where it ``resizes``.

    Raises:
        DataError: it can't be decoded, or has another size.
    """
    channels, height, width = layout.shape
    with _opened(encoded, lambda: where(row)) as image:
        if layout.resizes and image.size != (width, height):
            # Lets libjpeg decode at the nearest larger eighth of the size.
            image.draft(None, (width, height))
            mode = "L" if channels == 1 else "RGB"
            image = image.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
        elif image.size != (width, height):
            raise DataError(
                f"{where(row)}: the image is {image.size[1]} x {image.size[0]}, others are {height} x {width};"
                " add a resize transform (data.transforms: {kind: resize, height: ..., width: ...})"
            )
        pixels = np.asarray(image if image.mode == "RGB" and channels == 3 else _converted(image, channels))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _converted(image: Image.Image, channels: int) -> Image.Image:
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


@contextmanager
def _opened(encoded: bytes | None, where: Any) -> Iterator[Image.Image]:
    """The image, opened; what Pillow raises on a damaged one becomes one sentence."""
    if encoded is None:
        raise DataError(f"{where()}: has no image")
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = str(error).split("<", 1)[0].strip()[:120]  # Pillow's names an object of ours
        raise DataError(f"{where()}: the image can't be decoded ({reason})") from error


def image_shape(encoded: bytes | None, where: Any) -> tuple[int, int, int]:
    """Channels (1 for gray, else 3), height and width of an encoded image."""
    with _opened(encoded, where) as image:
        channels = 1 if image.mode in ("1", "L", "I", "I;16", "F") else 3
        return channels, image.size[1], image.size[0]
