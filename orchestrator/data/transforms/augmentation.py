"""Transforms of images: ``resize``, ``random_crop`` and ``random_flip``."""

from __future__ import annotations

import numpy as np

from orchestrator.data.transforms import Batch, Fitted, tensor_of
from orchestrator.data.transforms.images import random_crop, random_flip, resize
from orchestrator.errors import DataError
from orchestrator.spec.transforms import RandomCrop, RandomFlip, Resize


class ResizeKind:
    """Images to one size."""

    training_only = False
    keeps_type = False

    def fitter(self, section: Resize) -> None:
        """Nothing to learn."""

    def sizes(self, section: Resize, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """None."""
        return {}

    def apply(self, section: Resize, fitted: Fitted, batch: Batch) -> Batch:
        """Float32 (B, C, height, width)."""
        image_BCHW = _images(batch, section.tensor, "resize")
        if image_BCHW.shape[2:] == (section.height, section.width):
            return batch
        return {**batch, section.tensor: resize(image_BCHW, section.height, section.width)}


class RandomCropKind:
    """A random place of the padded image."""

    training_only = True
    keeps_type = True

    def fitter(self, section: RandomCrop) -> None:
        """Nothing to learn."""

    def sizes(self, section: RandomCrop, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """None."""
        return {}

    def apply(self, section: RandomCrop, fitted: Fitted, batch: Batch) -> Batch:
        """Of the size and type that came in."""
        image_BCHW = _images(batch, section.tensor, "random_crop")
        size = (image_BCHW.shape[2], image_BCHW.shape[3])
        return {**batch, section.tensor: random_crop(image_BCHW, batch["sample_seed"], section.padding, size)}


class RandomFlipKind:
    """Some mirrored."""

    training_only = True
    keeps_type = True

    def fitter(self, section: RandomFlip) -> None:
        """Nothing to learn."""

    def sizes(self, section: RandomFlip, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """None."""
        return {}

    def apply(self, section: RandomFlip, fitted: Fitted, batch: Batch) -> Batch:
        """Of the size and type that came in."""
        image_BCHW = _images(batch, section.tensor, "random_flip")
        return {**batch, section.tensor: random_flip(image_BCHW, batch["sample_seed"], section.probability)}


def _images(batch: Batch, name: str, kind: str) -> np.ndarray:
    values = tensor_of(batch, name, kind)
    if values.ndim != 4:
        raise DataError(
            f"data.transforms: {kind} takes images (channels, height, width), but a sample's {name!r} has the shape"
            f" {values.shape[1:]}"
        )
    return values
