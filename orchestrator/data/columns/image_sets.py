"""What the images of a data set have in common: channels, size, what is black and white. From many of them, never from one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from orchestrator.data.columns.arrays import column_array, encoded_bytes
from orchestrator.data.columns.images import ImageFacts, image_facts, other_size
from orchestrator.data.columns.layout import TensorLayout
from orchestrator.data.sources.formats import format_of
from orchestrator.data.sources.index import SourceIndex
from orchestrator.errors import DataError
from orchestrator.spec.data import DataSpec

_LOOK_BYTES = 2**26
_LOOK_GROUPS = 16
_LOOK_ROWS = 256
"""At most so many bytes, groups, spread over the source, and rows in each are looked at."""


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
    seen = _looked_at(index, column, read)
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


def _looked_at(index: SourceIndex, column: str, read: tuple[str, ...]) -> dict[tuple[int, int], ImageFacts]:
    """Facts by group and row of the first image, and of those of others that can be decoded: a bad one is said when it is
    read.
    """
    facts: dict[tuple[int, int], ImageFacts] = {}
    for group, images in _spread(index, column, read):
        for row in range(min(_LOOK_ROWS, len(images))):
            try:
                facts[group, row] = image_facts(images[row].as_py(), partial(index.where, group, row))
            except DataError:
                if not facts:
                    raise
    return facts


def _spread(index: SourceIndex, column: str, read: tuple[str, ...]) -> Iterator[tuple[int, pa.Array]]:
    """Images of groups from all over the source; of the first one's beginning where groups are very large."""
    reader, filled = format_of(index.kind), np.flatnonzero(index.group_rows)
    fitting = int(_LOOK_BYTES / max(1.0, index.row_bytes * float(index.group_rows[filled].mean())))
    if fitting == 0:
        yield int(filled[0]), encoded_bytes(column_array(reader.head(index, _LOOK_ROWS), column))
        return
    places = np.linspace(0, len(filled) - 1, min(len(filled), _LOOK_GROUPS, fitting)).astype(int)
    for group in filled[np.unique(places)].tolist():
        yield group, encoded_bytes(column_array(reader.read(index, group, read), column))
