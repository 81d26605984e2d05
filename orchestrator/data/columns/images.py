"""Encoded images to pixels: what a file's own words say of them, heeded.

An image is turned as its EXIF orientation says, transparent pixels are laid on a stated color, and gray of 16 and 32 bits
keeps its levels: 16 bits by their own range, 32 bits and fractions by that of the data set or the job. Of several frames
the first is taken.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from orchestrator.data.columns.layout import TensorLayout
from orchestrator.errors import DataError

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what brings the image upright (EXIF 2.32, tag 0x0112)."""
_SIDEWAYS = (5, 6, 7, 8)
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_GRAY = ("1", "L", "LA", "La", "I", "F", *_SIXTEEN_BITS)
_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_WHITE_16, _WHITE = 65535.0, 255.0


class ImageFacts(NamedTuple):
    """What an image is, as it stands upright."""

    height: int
    width: int
    color: bool
    deep: bool
    """More than eight bits of gray."""
    values: tuple[float, float] | None
    """Least and greatest, where the file does not say what is black and what is white (32 bits, fractions)."""


def decode_image(
    encoded: bytes | None, layout: TensorLayout, where: Callable[[int], str], row: int
) -> tuple[np.ndarray]:
    """Pixels of an image (channels, height, width) in 0..255, brought to the layout's size where it ``resizes``.

    uint8; float32 for gray of more bits where the layout is not carried as uint8.

    Raises:
        DataError: it can't be decoded, has another size, or is in color where the others looked at are gray.
    """
    channels, height, width = layout.shape
    with _opened(encoded, lambda: where(row)) as image:
        if layout.resizes:
            # Lets libjpeg decode at the nearest larger eighth of the size, however the image lies.
            image.draft(None, (max(width, height), max(width, height)))
        turn = _orientation(image)
        sideways = turn in _SIDEWAYS
        size = (height, width) if sideways else (width, height)
        if not layout.resizes and image.size != size:
            given = image.size[::-1] if sideways else image.size
            raise other_size(where(row), (given[1], given[0]), (height, width))
        if channels == 1 and not layout.to_gray and image.mode not in _GRAY:
            raise DataError(
                f"{where(row)}: the image is in color, but those looked at before training are gray; give"
                " data.images: {channels: 3}, or {channels: 1} to make all gray"
            )
        flat = _flat(image, layout, lambda: where(row))
        if layout.resizes and flat.size != size:
            flat = flat.resize(size, Image.Resampling.BILINEAR)
        pixels = np.asarray(flat.transpose(_TURNS[turn]) if turn in _TURNS else flat)
    if pixels.dtype != np.uint8 and layout.carried == "uint8":
        pixels = np.rint(pixels.clip(0, _WHITE)).astype(np.uint8)
    if pixels.ndim == 2:
        return (np.broadcast_to(pixels, (channels, *pixels.shape)),)
    return (pixels.transpose(2, 0, 1),)


def image_facts(encoded: bytes | None, where: Callable[[], str]) -> ImageFacts:
    """What an encoded image is; decodes it only where its values tell what is black and white. Raises DataError."""
    with _opened(encoded, where) as image:
        width, height = image.size[::-1] if _orientation(image) in _SIDEWAYS else image.size
        values = None
        if image.mode in ("I", "F"):
            pixels = np.asarray(image, dtype=np.float64)
            finite = pixels[np.isfinite(pixels)]
            values = (float(finite.min()), float(finite.max())) if finite.size else None
        deep = image.mode in ("I", "F", *_SIXTEEN_BITS)
        return ImageFacts(height, width, image.mode not in _GRAY, deep, values)


def _flat(image: Image.Image, layout: TensorLayout, where: Callable[[], str]) -> Image.Image:
    """The image without transparency, as L, RGB, or F where gray has more than eight bits."""
    if image.mode in ("I", "F", *_SIXTEEN_BITS):
        return Image.fromarray(_deep_gray(image, layout, where))
    mode = "L" if layout.shape[0] == 1 else "RGB"
    if image.mode in _ALPHA or "transparency" in image.info:
        over = image.convert("RGBA")
        under = Image.new("RGBA", over.size, (*layout.background, 255))
        return Image.alpha_composite(under, over).convert(mode)
    return image if image.mode == mode else image.convert(mode)


def _deep_gray(image: Image.Image, layout: TensorLayout, where: Callable[[], str]) -> np.ndarray:
    """Values of gray of 16 or 32 bits or of fractions in 0..255, float32 (height, width); beyond it where they lie beyond
    the data set's black and white.
    """
    values = np.asarray(image, dtype=np.float64)
    if image.mode not in _SIXTEEN_BITS:
        if layout.black_and_white is None:
            raise DataError(
                f"{where()}: the image has 32 bits, those looked at before training have not; say what is black and white:"
                " data.images: {range: [0, ...]}"
            )
        black, white = layout.black_and_white
        if not np.isfinite(values).all():
            raise DataError(f"{where()}: the image has a pixel that is not a finite number")
        return ((values - black) * (_WHITE / (white - black))).astype(np.float32)
    gray = (values * (_WHITE / _WHITE_16)).astype(np.float32)
    if (clear := image.info.get("transparency")) is not None:
        gray[values == clear] = Image.new("RGB", (1, 1), layout.background).convert("L").getpixel((0, 0))
    return gray


def other_size(where: str, size: tuple[int, int], others: tuple[int, int]) -> DataError:
    """Of an image whose height and width are not those of the others, where nothing makes them alike."""
    return DataError(
        f"{where}: the image is {size[0]} x {size[1]}, others are {others[0]} x {others[1]};"
        " add a resize transform (data.transforms: {kind: resize, height: ..., width: ...})"
    )


def _orientation(image: Image.Image) -> int:
    """As EXIF says; 1 where it stands upright, as Pillow makes TIFF stand by itself."""
    if image.format == "TIFF":
        return 1
    turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    return turn if isinstance(turn, int) else 1


@contextmanager
def _opened(encoded: bytes | None, where: Callable[[], str]) -> Iterator[Image.Image]:
    """The image, opened; what Pillow raises on a damaged one becomes one sentence."""
    if encoded is None:
        raise DataError(
            f"{where()}: has no image; {{kind: drop, tensor: image}} under data.transforms leaves such rows"
            " out, or data.skip_bad_samples allows some"
        )
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            yield image
    except DataError:
        raise
    except Exception as error:  # Pillow's readers have many words for bytes that are no image
        reason = str(error).split("<", 1)[0].strip()[:120]  # Pillow's names an object of ours
        raise DataError(
            f"{where()}: the image can't be decoded ({reason or type(error).__name__}); write it anew, or"
            " data.skip_bad_samples leaves some out"
        ) from error
