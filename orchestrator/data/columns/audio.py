"""Encoded sounds to samples: WAV, FLAC and OGG, by soundfile; brought to one rate, to one channel by their mean, and to
one length by silence at the end.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np

from orchestrator.data.columns.layout import SoundLayout, TensorLayout
from orchestrator.data.columns.resampling import length_after, resampled
from orchestrator.data.columns.wav import plain_wav, wav_ends_early
from orchestrator.errors import DataError, SpecError

_MEND = "write it anew, or data.skip_bad_samples leaves some out"


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
) -> tuple[np.ndarray, np.ndarray]:
    """Samples of a sound (channels, samples) in -1..1, float32, as long as the layout says; and how many are its own and no
    silence behind it, int64 without dimensions.

    Raises:
        DataError: it can't be decoded, or has another rate, other channels or another length than the layout allows.
    """
    assert layout.sound is not None
    channels, length = layout.shape
    with _opened(encoded, lambda: where(row)) as sound:
        facts = AudioFacts(sound.samplerate, sound.channels, sound.frames)
        _check(facts, layout, lambda: where(row))
        wave = _samples(sound)
    if wave.shape[1] < facts.samples:
        raise _cut_off(where(row))
    if channels == 1 and facts.channels > 1:
        wave = wave.mean(axis=0, keepdims=True)
    if not np.isfinite(wave.sum()):
        raise DataError(f"{where(row)}: the sound has a sample that is not a finite number; {_MEND}")
    if facts.rate != layout.sound.rate:
        wave = resampled(wave, facts.rate, layout.sound.rate)
    own = min(length, wave.shape[1])
    if wave.shape[1] < length:
        padded = np.zeros((channels, length), dtype=np.float32)
        padded[:, :own] = wave
        wave = padded
    return wave[:, :length], np.array(own)


def _samples(sound: Any, most: int = -1) -> np.ndarray:
    """The first samples of an open sound, or all that can be read (channels, samples), in -1..1, float32."""
    if sound.subtype != "PCM_16":
        return np.ascontiguousarray(sound.read(most, dtype="float32", always_2d=True).T)
    # The same numbers, and libsndfile takes twice as long to make them of a FLAC's or a WAV's.
    whole_NC = sound.read(most, dtype="int16", always_2d=True)
    return np.multiply(whole_NC.T, np.float32(2**-15), dtype=np.float32, order="C")


def listen(encoded: bytes | None, where: Callable[[], str], most_seconds: float) -> tuple[np.ndarray, int]:
    """The beginning of a sound as its file has it, to be played: int16 (samples, channels), and samples a second. Raises
    DataError.
    """
    with _opened(encoded, where) as sound:
        wave_NC = _samples(sound, int(most_seconds * sound.samplerate)).T
        loudest = 2**15
        # libsndfile scales nothing where it makes whole numbers of a file's fractions.
        played_NC = np.clip(np.rint(np.nan_to_num(wave_NC) * loudest), -loudest, loudest - 1).astype(np.int16)
        return played_NC, sound.samplerate


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
        plain = plain_wav(encoded)
        with soundfile.SoundFile(io.BytesIO(encoded)) if plain is None else nullcontext(plain) as sound:
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
    return wav_ends_early(encoded)


def _library() -> Any:
    try:
        import soundfile
    except ImportError as error:
        raise SpecError(
            "sounds are read by soundfile, which is not installed; install trainwright[audio], here and on the workers"
        ) from error
    return soundfile
