"""A few sounds of the evaluation set as their files hold them, before all transforms: for a person to listen to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from orchestrator.data.columns.arrays import group_values
from orchestrator.data.columns.audio import listen
from orchestrator.data.prepared import Prepared
from orchestrator.data.sources.formats import format_of
from orchestrator.errors import DataError

_MOST_SOUNDS = 4
_MOST_SECONDS = 10.0


class RawSound(NamedTuple):
    """A sound to be played."""

    number: int
    """Its place among those that were asked for."""
    wave: np.ndarray
    """(samples, channels) int16."""
    rate: int
    """Samples a second."""


def raw_sounds(prepared: Prepared, samples: Sequence[int]) -> list[RawSound]:
    """The beginnings of the first sounds, up to ten seconds of four; those left out that can't be read.

    Args:
        samples: numbers of evaluation samples; -1 is padding. Where the data has no sounds none is looked for.
    """
    source = prepared.evaluation
    layout = None if source is None else next((one for one in source.layouts if one.kind == "audio"), None)
    if source is None or layout is None:
        return []
    index, found = source.index, []
    for number, sample in enumerate(samples[:_MOST_SOUNDS]):
        if sample < 0:
            continue
        group = int(np.searchsorted(index.group_starts, sample - source.first_id, side="right")) - 1
        row = sample - source.first_id - int(index.group_starts[group])
        table = format_of(index.kind).read(index, group, layout.read_columns)
        encoded = group_values(table, layout, partial(index.where, group))[row].as_py()
        try:
            found.append(RawSound(number, *listen(encoded, partial(index.where, group, row), _MOST_SECONDS)))
        except DataError:  # the evaluation has named it, and counts it as a bad sample
            continue
    return found
