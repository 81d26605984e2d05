"""Transforms: what is done to named tensors, batch by batch, while training reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.section import Section

Positive = Annotated[int, Field(ge=1)]


class Normalize(Section):
    """Subtract the mean and divide by the standard deviation, both fitted on the training split."""

    kind: Literal["normalize"] = "normalize"
    """The transform."""
    tensor: str
    """The named tensor."""
    per: Literal["element", "channel", "tensor"] = "channel"
    """One mean for each element, for each index of the first dimension, or one for all."""


class Scale(Section):
    """Multiply by a factor, then add an offset."""

    kind: Literal["scale"] = "scale"
    """The transform."""
    tensor: str
    """The named tensor."""
    factor: float = 1.0
    """Multiplied with."""
    offset: float = 0.0
    """Added."""


class Encode(Section):
    """Values such as words into whole numbers from 0, by the sorted values of the training split."""

    kind: Literal["encode"] = "encode"
    """The transform."""
    tensor: str
    """The named tensor: one column (``label``) or several (``categories``), each encoded by itself."""
    unseen: Literal["error", "unknown"] = "error"
    """A value that no training sample has: an error, or a number of its own, the last one."""


class Resize(Section):
    """Images to one size, bilinear."""

    kind: Literal["resize"] = "resize"
    """The transform."""
    tensor: str = "image"
    """The named tensor."""
    height: Positive
    """New height in pixels."""
    width: Positive
    """New width in pixels."""


class RandomCrop(Section):
    """Pad training images with zeros and cut out a random place of the old size (He et al. 2015, section 4.2).
    Evaluation images stay whole.
    """

    kind: Literal["random_crop"] = "random_crop"
    """The transform."""
    tensor: str = "image"
    """The named tensor."""
    padding: Positive
    """Pixels added on each side."""


class RandomFlip(Section):
    """Mirror training images left and right at random. Evaluation images stay as they are."""

    kind: Literal["random_flip"] = "random_flip"
    """The transform."""
    tensor: str = "image"
    """The named tensor."""
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5
    """How often."""


Transform = Annotated[
    Normalize | Scale | Encode | Resize | RandomCrop | RandomFlip, Field(discriminator="kind")
]
