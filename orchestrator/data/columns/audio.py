"""Encoded sounds to samples: WAV, FLAC and OGG, by soundfile; brought to one rate by a polyphase filter (scipy's
``resample_poly``, Kaiser window), to one channel by their mean, and to one length by silence at the end.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple

import numpy as np

from orchestrator.data.columns.layout import SoundLayout, TensorLayout
from orchestrator.errors import DataError, SpecError

_MEND = "write it anew, or data.skip_bad_samples leaves some out"
_UNSAID = (0, 2**32 - 1)
"""Sizes in the head of a WAV that was written to a pipe."""


class AudioFacts(NamedTuple):
    """What a sound's head says of it."""

    rate: int
    """Samples a second."""
    channels: int
    samples: int


def is_audio(encoded: bytes | None) -> bool:
    """Whether bytes begin as one of the formats does."""
    start = encoded or b""
    return start[:4] in (b"fLaC", b"OggS") or (start[:4] in (b"RIFF", b"RF64") and start[8:12] == b"WAVE")


def audio_facts(encoded: bytes | None, where: Callable[[], str]) -> AudioFacts:
    """What a sound is, without decoding it. Raises DataError."""
    with _opened(encoded, where) as sound:
        return AudioFacts(sound.samplerate, sound.channels, sound.frames)


def decode_audio(
    encoded: bytes | None, layout: TensorLayout, where: Callable[[int], str], row: int
) -> np.ndarray:
    """Samples of a sound (channels, samples) in -1..1, float32, as long as the layout says.

    Raises:
        DataError: it can't be decoded, or has another rate, other channels or another length than the layout allows.
    """
    assert layout.sound is not None
    channels, length = layout.shape
    with _opened(encoded, lambda: where(row)) as sound:
        facts = AudioFacts(sound.samplerate, sound.channels, sound.frames)
        _check(facts, layout, lambda: where(row))
        samples = sound.read(dtype="float32", always_2d=True)
    if len(samples) < facts.samples:
        raise _cut_off(where(row))
    wave = np.ascontiguousarray(samples.T)
    if channels == 1 and facts.channels > 1:
        wave = wave.mean(axis=0, keepdims=True)
    if not np.isfinite(wave.sum()):
        raise DataError(f"{where(row)}: the sound has a sample that is not a finite number; {_MEND}")
    if facts.rate != layout.sound.rate:
        wave = resampled(wave, facts.rate, layout.sound.rate)
    if wave.shape[1] < length:
        wave = np.pad(wave, ((0, 0), (0, length - wave.shape[1])))
    return wave[:, :length]


def decode_length(
    encoded: bytes | None, layout: TensorLayout, where: Callable[[int], str], row: int
) -> np.ndarray:
    """How many of a sound's samples are its own and no silence behind it; int64 without dimensions."""
    assert layout.sound is not None
    facts = audio_facts(encoded, lambda: where(row))
    return np.array(min(layout.sound.longest, length_after(facts.samples, facts.rate, layout.sound.rate)))


def listen(encoded: bytes | None, where: Callable[[], str], most_seconds: float) -> tuple[np.ndarray, int]:
    """The beginning of a sound as its file has it, to be played: int16 (samples, channels), and samples a second. Raises
    DataError.
    """
    with _opened(encoded, where) as sound:
        wave_NC = sound.read(int(most_seconds * sound.samplerate), dtype="float32", always_2d=True)
        loudest = 2**15
        # libsndfile scales nothing where it makes whole numbers of a file's fractions.
        played_NC = np.clip(np.rint(np.nan_to_num(wave_NC) * loudest), -loudest, loudest - 1).astype(np.int16)
        return played_NC, sound.samplerate


def length_after(samples: int, rate: int, new_rate: int) -> int:
    """Samples of a sound once it is ``resampled``."""
    return -(-samples * new_rate // rate)


def resampled(wave_CL: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """A sound (channels, samples) at another rate, float32; what the new rate can't hold is filtered out before."""
    from scipy.signal import resample_poly

    shared = gcd(rate, new_rate)
    up, down = new_rate // shared, rate // shared
    wave: np.ndarray = resample_poly(wave_CL, up, down, axis=1, window=_low_pass(max(up, down)))
    return wave.astype(np.float32, copy=False)


@lru_cache(maxsize=64)
def _low_pass(factor: int) -> np.ndarray:
    """The filter of ``resample_poly``, which would make it anew for each sound: that takes longer than filtering one."""
    from scipy.signal import firwin

    taps: np.ndarray = firwin(20 * factor + 1, 1 / factor, window=("kaiser", 5.0))
    return taps.astype(np.float32)


def _check(facts: AudioFacts, layout: TensorLayout, where: Callable[[], str]) -> None:
    """Raises DataError where a sound is unlike the others and the job does not say how to make them alike."""
    sound = layout.sound
    assert sound is not None
    check_alike(facts, sound, layout.shape[0], where, layout.name)
    length = length_after(facts.samples, facts.rate, sound.rate)
    if length > sound.longest and not sound.cuts:
        raise DataError(
            f"{where()}: the sound has {length:,} samples, more than the {sound.longest:,} of pad (data.transforms); give it a"
            " greater length, or longer: cut"
        )


def check_alike(
    facts: AudioFacts, sound: SoundLayout, channels: int, where: Callable[[], str], tensor: str
) -> None:
    """Raises DataError where a sound has another rate, other channels or another length, and nothing makes them alike.

    Args:
        where: says where it lies; asked only then, since it may have to read for it.
    """
    if facts.rate != sound.rate and not sound.resamples:
        raise _other_rate(where(), facts.rate, sound.rate, tensor)
    if facts.channels != channels and not sound.mixes:
        raise _other_channels(where(), facts.channels, channels)
    length = length_after(facts.samples, facts.rate, sound.rate)
    if length != sound.longest and not sound.pads:
        raise _other_length(where(), length, sound.longest, tensor)


def _other_rate(where: str, rate: int, others: int, tensor: str) -> DataError:
    """Of a sound whose sampling rate is not that of the others, where nothing makes them alike."""
    return DataError(
        f"{where}: the sound has {rate:,} samples a second, others have {others:,}; add a resample transform"
        f" (data.transforms: {{kind: resample, tensor: {tensor}, rate: {min(rate, others)}}})"
    )


def _other_channels(where: str, channels: int, others: int) -> DataError:
    """The same of its channels."""
    return DataError(
        f"{where}: the sound has {channels} channel{'s' if channels > 1 else ''}, others have {others}; give"
        " data.audio: {channels: 1}, which takes the mean of them"
    )


def _other_length(where: str, samples: int, others: int, tensor: str) -> DataError:
    """The same of its length."""
    return DataError(
        f"{where}: the sound has {samples:,} samples, others have {others:,}; add a pad transform (data.transforms:"
        f" {{kind: pad, tensor: {tensor}, length: {max(samples, others)}}})"
    )


@contextmanager
def _opened(encoded: bytes | None, where: Callable[[], str]) -> Iterator[Any]:
    """The sound, opened; what libsndfile raises on a damaged one becomes one sentence."""
    soundfile = _library()
    if encoded is None:
        raise DataError(
            f"{where()}: has no sound; {{kind: drop, tensor: ...}} under data.transforms leaves such rows out, or"
            " data.skip_bad_samples allows some"
        )
    if not encoded:
        raise DataError(f"{where()}: the file is empty; {_MEND}")
    if _ends_early(encoded):
        raise _cut_off(where())
    try:
        with soundfile.SoundFile(io.BytesIO(encoded)) as sound:
            if sound.frames <= 0:
                raise DataError(f"{where()}: holds no sound; {_MEND}")
            yield sound
    except (soundfile.SoundFileError, RuntimeError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error).rsplit("object at", 1)[-1].partition(": ")[2].strip()[:120]
        raise DataError(
            f"{where()}: the sound can't be decoded ({reason or type(error).__name__}); {_MEND}"
        ) from error


def _cut_off(where: str) -> DataError:
    return DataError(f"{where}: the file is cut off, it says that it is longer; {_MEND}")


def _ends_early(encoded: bytes) -> bool:
    """Whether a WAV is shorter than its head says, or an OGG has no last page: libsndfile reads what is there of both."""
    if encoded[:4] == b"OggS":
        last = encoded.rfind(b"OggS")
        page = encoded[last:]
        segments = page[26] if len(page) > 26 else 0
        whole = len(page) >= 27 + segments and len(page) >= 27 + segments + sum(page[27 : 27 + segments])
        return not (whole and page[5] & 4)
    place = 12
    while encoded[:4] == b"RIFF" and place + 8 <= len(encoded):
        name, size = struct.unpack_from("<4sI", encoded, place)
        if name == b"data":
            return size not in _UNSAID and place + 8 + size > len(encoded)
        place += 8 + size + size % 2
    return False


def _library() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise SpecError(
            "sounds are read by soundfile, which is not installed; install trainwright[audio], here and on the workers"
        ) from error
    return soundfile
