"""What the sounds of a data set have in common: rate, channels, length. From many of them, never from one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import takewhile

from orchestrator.data.columns.audio import audio_facts, check_alike
from orchestrator.data.columns.layout import SoundLayout, TensorLayout
from orchestrator.data.columns.looks import looked_at
from orchestrator.data.columns.resampling import length_after
from orchestrator.data.sources.index import SourceIndex
from orchestrator.errors import SpecError
from orchestrator.spec.data import DataSpec
from orchestrator.spec.transforms import Mel, Pad, Resample, Transform

LENGTH = "length"
"""The tensor that says how much of a padded sound is its own."""


def audio_layout(
    tensor: str, column: str, read: tuple[str, ...], spec: DataSpec, index: SourceIndex
) -> TensorLayout:
    """The layout of a column of encoded sounds: at the rate of the first sound or of ``resample``, as long as it or as
    ``pad`` says.

    Raises:
        DataError: the first sound can't be opened, or sounds differ in rate, channels or length, nothing makes them alike
            and no sample may be skipped.
        SpecError: a transform of another rate follows.
    """
    seen = looked_at(index, column, read, audio_facts)
    first = next(iter(seen.values()))
    own = [one for one in spec.transforms if one.tensor == tensor]
    decoding = list(takewhile(lambda one: not isinstance(one, Mel), own))
    resample = next((one for one in decoding if isinstance(one, Resample)), None)
    pad = next((one for one in decoding if isinstance(one, Pad)), None)
    rate = first.rate if resample is None else resample.rate
    longest = length_after(first.samples, first.rate, rate) if pad is None else pad.length
    sound = SoundLayout(
        rate=rate,
        longest=longest,
        resamples=resample is not None,
        mixes=spec.audio.channels == 1,
        pads=pad is not None,
        cuts=pad is not None and pad.longer == "cut",
    )
    channels = 1 if sound.mixes else first.channels
    _check_rates(own, rate, tensor)
    if not spec.skip_bad_samples:
        for (group, row), facts in seen.items():
            check_alike(facts, sound, channels, partial(index.where, group, row), tensor)
    return TensorLayout(
        name=tensor,
        columns=(column,),
        read_columns=read,
        kind="audio",
        shape=(channels, longest),
        sound=sound,
    )


def length_layout(of: TensorLayout) -> TensorLayout:
    """How many samples of each sound are its own, where silence may follow."""
    more = {"name": LENGTH, "kind": "audio_length", "shape": (), "dtype": "int64", "carried": "int64"}
    return of.model_copy(update=more)


def _check_rates(transforms: Sequence[Transform], rate: int, tensor: str) -> None:
    for one in transforms:
        if isinstance(one, Mel) and one.rate != rate:
            raise SpecError(
                f"data.transforms: mel of {tensor!r} is for {one.rate:,} samples a second, but the sounds have {rate:,}; give"
                f" it rate: {rate}, or put {{kind: resample, tensor: {tensor}, rate: {one.rate}}} before it"
            )
