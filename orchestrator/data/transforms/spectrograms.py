"""Spectrograms of sounds: ``mel`` and ``spec_augment``.

Shapes: B samples, C channels, N samples of a sound, F mels, T frames, W samples of a frame, K bins of its spectrum.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from orchestrator.data.transforms import Batch, Fitted
from orchestrator.data.transforms.images import uniform_from_seed
from orchestrator.data.transforms.signals import OfSignals, signals, with_steps
from orchestrator.errors import DataError
from orchestrator.spec.transforms import Mel, SpecAugment

_FREQUENCY_SALT, _TIME_SALT = 104, 105
_LEAST_POWER = 1e-10
_LINEAR_HERTZ, _LINEAR_UP_TO, _STEPS_PER_FACTOR = 200 / 3, 1000.0, 27
"""Slaney's mel scale: so many hertz a mel up to 1,000, from there 27 mels for each factor of 6.4."""
_FRAMES_AT_ONCE, _MELS_AT_ONCE = 512, 16
"""What is computed with these stays in the processor's caches."""
_PRODUCTS_AT_ONCE = 2**18
"""BLAS takes threads of its own for more: beyond those that read, and for several times the CPU."""


class MelKind(OfSignals):
    """Sounds to log-mel spectrograms."""

    def apply(self, section: Mel, fitted: Fitted, batch: Batch) -> Batch:
        """Float32 (B, C x mels, frames), or (B, C, mels, frames)."""
        wave_BCN = signals(batch, section.tensor, "mel")
        if wave_BCN.ndim != 3 or wave_BCN.dtype.kind != "f":
            raise DataError(
                f"data.transforms: mel takes sounds (channels, samples), but a sample's {section.tensor!r} holds"
                f" {wave_BCN.dtype} of the shape {wave_BCN.shape[1:]}"
            )
        made_BCFT = log_mel(wave_BCN, section)
        if section.layout == "signal":
            made_BCFT = made_BCFT.reshape(len(made_BCFT), -1, made_BCFT.shape[-1])
        return with_steps(batch, section.tensor, made_BCFT, lambda length: 1 + length // section.hop)


class SpecAugmentKind(OfSignals):
    """Some bands and stretches hidden."""

    training_only = True

    def apply(self, section: SpecAugment, fitted: Fitted, batch: Batch) -> Batch:
        """Of the shape that came in."""
        values = signals(batch, section.tensor, "spec_augment")
        bands, frames = values.shape[-2:]
        own = batch["length"] if "length" in batch else np.full(len(values), frames)
        out = values.copy()
        seeds = batch["sample_seed"]
        low, high = _masks(
            seeds,
            section.frequency_masks,
            section.frequency_width,
            np.full(len(values), bands),
            _FREQUENCY_SALT,
        )
        start, stop = _masks(seeds, section.time_masks, section.time_width, own, _TIME_SALT)
        for sample in range(len(out)):
            for first, last in zip(low[sample], high[sample], strict=True):
                out[sample, ..., first:last, :] = 0
            for first, last in zip(start[sample], stop[sample], strict=True):
                out[sample, ..., first:last] = 0
        return {**batch, section.tensor: out}


def _masks(
    seeds_B: np.ndarray, count: int, most: int, room_B: np.ndarray, salt: int
) -> tuple[list[list[int]], list[list[int]]]:
    """First and one past the last place of each sample's masks, within its room."""
    share = uniform_from_seed(seeds_B, 2 * count, salt)
    width = np.minimum(np.floor(share[:, :count] * (most + 1)), room_B[:, None])
    first = np.floor(share[:, count:] * (room_B[:, None] - width + 1))
    return first.astype(int).tolist(), (first + width).astype(int).tolist()


def log_mel(wave_BCN: np.ndarray, section: Mel) -> np.ndarray:
    """Decibels (B, C, mels, frames), float32; see ``spec.transforms.Mel``."""
    samples, channels, length = wave_BCN.shape
    frames, side = 1 + length // section.hop, section.window // 2
    at_once = max(1, _FRAMES_AT_ONCE // (channels * frames))
    spectra = _Spectra(section.window, max(channels, _FRAMES_AT_ONCE))
    bands = _bands(section.rate, section.window, section.mels, section.low, section.high)
    padded_BCN = np.zeros((min(samples, at_once), channels, length + section.window))
    framed_BCTW = np.lib.stride_tricks.sliding_window_view(padded_BCN, section.window, axis=2)[
        ..., :: section.hop, :
    ]
    out_BCFT = np.empty((samples, channels, section.mels, frames), dtype=np.float32)
    for first in range(0, samples, at_once):
        some_BCN, loud_BCFT = wave_BCN[first : first + at_once], out_BCFT[first : first + at_once]
        padded_BCN[: len(some_BCN), :, side : side + length] = some_BCN
        for part in _parts(frames, max(1, _FRAMES_AT_ONCE // channels)):
            power_BCTK = spectra.power(framed_BCTW[: len(some_BCN), :, part])
            for mels, bins, weights_FK in bands:
                np.matmul(weights_FK, power_BCTK[..., bins].swapaxes(2, 3), out=loud_BCFT[:, :, mels, part])
        np.maximum(loud_BCFT, _LEAST_POWER, out=loud_BCFT)
        np.log10(loud_BCFT, out=loud_BCFT)
        np.multiply(loud_BCFT, 10, out=loud_BCFT)
        if section.top_db is not None:
            loudest = loud_BCFT.max(axis=(1, 2, 3), keepdims=True)
            np.maximum(loud_BCFT, loudest - np.float32(section.top_db), out=loud_BCFT)
    return out_BCFT


def _parts(count: int, at_once: int) -> Iterator[slice]:
    return (slice(start, min(start + at_once, count)) for start in range(0, count, at_once))


class _Spectra:
    """Power of frames (..., bins), float32; in memory of its own, which stays in the processor's caches."""

    def __init__(self, window: int, most: int) -> None:
        self._window_W = _hann(window)
        # In float64: what lies 60 dB below the loudest would be off by 1e-3 dB in float32.
        self._framed = np.empty((most, window))
        self._spectrum = np.empty((most, window // 2 + 1), dtype=np.complex128)
        self._power = np.empty((most, window // 2 + 1), dtype=np.float32)

    def power(self, framed_BCTW: np.ndarray) -> np.ndarray:
        """Of frames that no window was laid on yet; overwritten by the next call."""
        shape = framed_BCTW.shape[:-1]
        count = int(np.prod(shape))
        np.multiply(framed_BCTW, self._window_W, out=self._framed[:count].reshape(framed_BCTW.shape))
        spectrum = np.fft.rfft(self._framed[:count], out=self._spectrum[:count])
        parts = spectrum.view(np.float64)
        np.square(parts, out=parts)
        power = np.add(parts[:, ::2], parts[:, 1::2], out=self._power[:count], casting="same_kind")
        return power.reshape(*shape, -1)


@lru_cache(maxsize=16)
def _bands(
    rate: int, window: int, mels: int, low: float, high: float | None
) -> list[tuple[slice, slice, np.ndarray]]:
    """A few mels each, the bins that these are made of, and their filters' weights there: most of all weights are 0."""
    weights_FK = mel_filters(rate, window, mels, low, high)
    bands, first = [], 0
    while first < mels:
        stop = first + 1
        while stop < min(mels, first + _MELS_AT_ONCE):
            bins = _heard(weights_FK[first : stop + 1])
            if (stop + 1 - first) * (bins.stop - bins.start) * _FRAMES_AT_ONCE > _PRODUCTS_AT_ONCE:
                break
            stop += 1
        bins = _heard(weights_FK[first:stop])
        bands.append((slice(first, stop), bins, np.ascontiguousarray(weights_FK[first:stop, bins])))
        first = stop
    return bands


def _heard(weights_FK: np.ndarray) -> slice:
    """The bins between the first and the last that any of the filters hears."""
    places = np.flatnonzero(weights_FK.any(axis=0))
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 1)


@lru_cache(maxsize=16)
def mel_filters(rate: int, window: int, mels: int, low: float, high: float | None) -> np.ndarray:
    """Triangles (mels, window // 2 + 1), float32, on Slaney's mel scale, each of area 1 (Slaney 1998, Auditory Toolbox)."""
    frequency_K = np.fft.rfftfreq(window, 1 / rate)
    lowest, highest = _mel(np.array([low, high or rate / 2])).tolist()
    edges = _hertz(np.linspace(lowest, highest, mels + 2))
    rising = (frequency_K - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequency_K) / (edges[2:] - edges[1:-1])[:, None]
    weights = np.maximum(0, np.minimum(rising, falling)) * (2 / (edges[2:] - edges[:-2]))[:, None]
    return weights.astype(np.float32)


def _mel(hertz: np.ndarray) -> np.ndarray:
    above = _LINEAR_UP_TO / _LINEAR_HERTZ + np.log(np.maximum(hertz, 1e-9) / _LINEAR_UP_TO) / _log_step()
    return np.where(hertz < _LINEAR_UP_TO, hertz / _LINEAR_HERTZ, above)


def _hertz(mel: np.ndarray) -> np.ndarray:
    bend = _LINEAR_UP_TO / _LINEAR_HERTZ
    return np.where(
        mel < bend, mel * _LINEAR_HERTZ, _LINEAR_UP_TO * np.exp(_log_step() * np.maximum(0, mel - bend))
    )


def _log_step() -> float:
    return float(np.log(6.4) / _STEPS_PER_FACTOR)


@lru_cache(maxsize=16)
def _hann(window: int) -> np.ndarray:
    """The periodic window."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
