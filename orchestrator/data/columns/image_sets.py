"""What the images of a data set have in common: channels, size, what is black and white. From many of them, never from one."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.data.columns.images import image_facts, other_size
from orchestrator.data.columns.layout import TensorLayout
from orchestrator.data.columns.looks import looked_at
from orchestrator.data.sources.index import SourceIndex
from orchestrator.spec.data import DataSpec


def image_layout(
    tensor: str,
    column: str,
    read: tuple[str, ...],
    spec: DataSpec,
    index: SourceIndex,
    *,
    computed_with: bool,
) -> TensorLayout:
    """The layout of a column of encoded images: three channels where the job or any image says so, the size of the first
    image or of ``resize``.

    Raises:
        DataError: the first image can't be decoded, or is missing; images are of several sizes, nothing makes them alike
            and no sample may be skipped.
    """
    seen = looked_at(index, column, read, image_facts)
    looked = list(seen.values())
    first = looked[0]
    resize = next((t for t in spec.transforms if t.kind == "resize" and t.tensor == tensor), None)
    height, width = (first.height, first.width) if resize is None else (resize.height, resize.width)
    if resize is None and not spec.skip_bad_samples:
        for (group, row), facts in seen.items():
            if (facts.height, facts.width) != (height, width):
                raise other_size(index.where(group, row), (facts.height, facts.width), (height, width))
    channels = spec.images.channels
    if channels == "auto":
        channels = 3 if any(facts.color for facts in looked) else 1
    deep = any(facts.deep for facts in looked)
    return TensorLayout(
        name=tensor,
        columns=(column,),
        read_columns=read,
        kind="image",
        shape=(channels, height, width),
        resizes=resize is not None,
        to_gray=spec.images.channels == 1,
        background=spec.images.background,
        black_and_white=spec.images.range or _black_and_white([facts.values for facts in looked]),
        carried="float32" if computed_with or deep else "uint8",
    )


def joined(one: TensorLayout, other: TensorLayout) -> TensorLayout:
    """What the images of two sources have in common, in the shape and types of the first."""
    channels = max(one.shape[0], other.shape[0])
    ranges = [layout.black_and_white for layout in (one, other)]
    return one.model_copy(
        update={
            "shape": (channels, *one.shape[1:]),
            "carried": "float32" if "float32" in (one.carried, other.carried) else "uint8",
            "black_and_white": ranges[0] if ranges[0] == ranges[1] else _black_and_white(ranges),
        }
    )


def _black_and_white(ranges: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    """0 is black unless there is less, the greatest is white; fractions within 0..1 stand as they are."""
    known = [one for one in ranges if one is not None]
    if not known:
        return None
    black, white = min(0.0, *(low for low, _ in known)), max(high for _, high in known)
    return (black, white) if black < 0 or white > 1 else (0.0, 1.0)
