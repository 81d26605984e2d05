"""Spectrograms of sounds: ``mel`` and ``spec_augment``.

Shapes: B samples, C channels, N samples of a sound, F mels, T frames.
"""

from __future__ import annotations

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
    weights_FK = mel_filters(section.rate, section.window, section.mels, section.low, section.high)
    window = _hann(section.window)
    frames = 1 + wave_BCN.shape[2] // section.hop
    out = np.empty((*wave_BCN.shape[:2], section.mels, frames), dtype=np.float32)
    side = section.window // 2
    for sample, wave_CN in enumerate(wave_BCN):  # one by one, in the processor's caches
        padded = np.pad(wave_CN.astype(np.float32, copy=False), ((0, 0), (side, side)))
        framed = np.lib.stride_tricks.sliding_window_view(padded, section.window, axis=1)[:, :: section.hop]
        # In float64: what lies 60 dB below the loudest would be off by 1e-3 dB in float32.
        spectrum_CTK = np.fft.rfft(framed * window)
        power_CTK = (spectrum_CTK.real**2 + spectrum_CTK.imag**2).astype(np.float32)
        loud = 10 * np.log10(np.maximum(_LEAST_POWER, power_CTK @ weights_FK.T))
        if section.top_db is not None:
            np.maximum(loud, loud.max() - np.float32(section.top_db), out=loud)
        out[sample] = loud.transpose(0, 2, 1)
    return out


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
