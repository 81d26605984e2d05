"""WAV files as they lie in memory: their pieces, and the samples of plain ones."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

_UNSAID = (0, 2**32 - 1)
"""Sizes in the head of a WAV that was written to a pipe."""
_PCM, _BITS = 1, 16


class PlainWav(NamedTuple):
    """A WAV of 16 bits: as much of ``soundfile.SoundFile`` as is used of one, of which it has the same numbers.

    libsndfile calls back into Python more than thirty times for a file that lies in memory: that takes as long as all the
    rest of reading such a file, and threads that read at once wait for each other every time.
    """

    samplerate: int
    channels: int
    samples_NC: np.ndarray
    """int16 (samples, channels), a view of the file."""
    subtype: str = "PCM_16"

    @property
    def frames(self) -> int:
        """Samples of each channel."""
        return len(self.samples_NC)

    def read(self, frames: int, dtype: str, always_2d: bool) -> np.ndarray:
        """The first samples; all for -1."""
        assert dtype == "int16" and always_2d
        return self.samples_NC if frames < 0 else self.samples_NC[:frames]


def plain_wav(encoded: bytes) -> PlainWav | None:
    """A file that is one, and whole; None for any other."""
    rate = channels = 0
    for name, start, size in _pieces(encoded):
        if name == b"fmt " and 16 <= size <= len(encoded) - start:
            kind, channels, rate, _, step, bits = struct.unpack_from("<HHIIHH", encoded, start)
            if (kind, bits, step) != (_PCM, _BITS, 2 * channels):
                return None
        if name == b"data":
            if not rate or not channels or size in _UNSAID or start + size > len(encoded):
                return None
            frames = size // (2 * channels)
            samples = np.frombuffer(encoded, dtype="<i2", count=frames * channels, offset=start)
            return PlainWav(rate, channels, samples.reshape(frames, channels))
    return None


def wav_ends_early(encoded: bytes) -> bool:
    """Whether a file is shorter than its head says."""
    for name, start, size in _pieces(encoded):
        if name == b"data":
            return size not in _UNSAID and start + size > len(encoded)
    return False


def _pieces(encoded: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, beginning and size of each piece of a WAV, as their heads say it; none of what is no WAV."""
    place = 12
    while encoded[:4] == b"RIFF" and encoded[8:12] == b"WAVE" and place + 8 <= len(encoded):
        name, size = struct.unpack_from("<4sI", encoded, place)
        yield name, place + 8, size
        place += 8 + size + size % 2
