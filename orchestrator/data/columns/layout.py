"""TensorLayout: which columns make one named tensor, and in which types it travels."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Literal

import numpy as np

from orchestrator.section import Section


class SoundLayout(Section):
    """How encoded sounds are made alike as they are decoded."""

    rate: int
    """Samples a second that all have, or are brought to."""
    longest: int
    """Samples of each, at this rate."""
    resamples: bool = False
    """Those of another rate are brought to it; otherwise they are refused."""
    mixes: bool = False
    """Several channels become their mean; otherwise each must have as many as the layout's shape."""
    pads: bool = False
    """Shorter ones get silence at their end; otherwise all must be as long."""
    cuts: bool = False
    """Of longer ones the beginning is taken; otherwise they are refused."""


class TensorLayout(Section):
    """Which columns make one named tensor, and how."""

    name: str
    """The tensor."""
    columns: tuple[str, ...]
    """In this order; a column in a struct is ``outer.inner``."""
    read_columns: tuple[str, ...]
    """The same as it is asked of the source: of a column in a struct, the struct."""
    kind: Literal["numbers", "image", "audio", "audio_length", "text", "dates"]
    """``numbers``: numbers, lists of numbers, tensors; ``image``: encoded images, decoded to 0..1; ``audio``: encoded sounds,
    decoded to -1..1, and ``audio_length``: how many samples of each are its own; ``text``: strings, and ``dates``: dates
    and times, which a transform must turn into numbers."""
    shape: tuple[int, ...] = ()
    """Of one sample; empty for one number or text."""
    dtype: Literal["float32", "int64", "uint8", "object", "datetime64[us]"] = "float32"
    """As the loop gets it, and a transform that computes with it; ``uint8`` of images that a device brings to 0..1."""
    carried: str = "float32"
    """As it is read: ``dtype``; the smaller type of the source where no transform computes with it; a wider one where one
    does and ``dtype`` can't tell the source's values apart. Images carried as uint8 are still in 0..255."""
    gaps: bool = False
    """Whether values may be missing, since a transform fills them in or the objective leaves them out. Otherwise a row that lacks
    one can't be read."""
    flat: bool = False
    """Several columns, ``features`` or ``categories``: laid end to end."""
    resizes: bool = False
    """Images are brought to ``shape`` as they are decoded; otherwise they must have it."""
    to_gray: bool = False
    """Images in color are made gray, as the job says; otherwise one among gray ones is refused."""
    background: tuple[int, int, int] = (255, 255, 255)
    """Red, green and blue that transparent pixels are laid on."""
    black_and_white: tuple[float, float] | None = None
    """The values that become 0 and 1 in images of 32 bits, which do not say it themselves; None where there are none."""

    sound: SoundLayout | None = None
    """Of sounds: how they are made alike."""

    @property
    def encoded(self) -> bool:
        """Whether the column holds bytes that are decoded row by row."""
        return self.kind in ("image", "audio", "audio_length")

    @property
    def blank(self) -> int:
        """What stands for a row that can't be read and counts nothing: no sequence is shorter than one."""
        return 1 if self.kind == "audio_length" else 0

    @property
    def blank_is_missing(self) -> bool:
        """Whether a text without a letter is no value: no class is called so."""
        return self.name == "label"


def source_column(name: str, there: Container[str]) -> str:
    """The source's column for one of ``data.columns``: a column's own name may hold dots."""
    return name if name in there else name.split(".", 1)[0]


def for_device(layouts: Sequence[TensorLayout], *, is_gpu: bool) -> tuple[TensorLayout, ...]:
    """The layouts of batches that go to a device: a GPU gets images as bytes, a quarter of what goes through the link."""
    return tuple(
        layout.model_copy(update={"dtype": "uint8"})
        if is_gpu and layout.kind == "image" and layout.carried == "uint8"
        else layout
        for layout in layouts
    )


def finished(batch: dict[str, np.ndarray], layouts: Sequence[TensorLayout]) -> dict[str, np.ndarray]:
    """A batch as the loop gets it: what was carried in a smaller type in its own."""
    done = dict(batch)
    for layout in layouts:
        values = batch.get(layout.name)
        if values is None or layout.carried == layout.dtype:
            continue
        if layout.kind == "image":
            done[layout.name] = np.multiply(values, np.float32(1 / 255), dtype=np.float32)
        else:
            done[layout.name] = values.astype(layout.dtype, copy=False)
    return done


def finished_steps(
    chunk: dict[str, np.ndarray], layouts: Sequence[TensorLayout]
) -> list[dict[str, np.ndarray]]:
    """The steps of a chunk (steps, samples, ...), each as the loop gets it.

    One by one, so that the memory of a step is soon used again: what is as large as a whole chunk is asked of the system
    anew each time.
    """
    return [
        finished({name: values[step] for name, values in chunk.items()}, layouts)
        for step in range(len(chunk["weight"]))
    ]
