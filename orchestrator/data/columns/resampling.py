"""Sounds at another rate, by a polyphase filter (scipy's ``resample_poly``, Kaiser window) as products of matrices.

Every ``up`` samples made of ``down`` given ones repeat the filter's phases, so a block of a few such periods is a few
matrices, each of neighboring samples that are made of the same stretch. That is several times as fast as sample by sample,
and takes few calls: between two, a thread may wait for others that read.

Shapes: C channels, N samples, B blocks, S stretches of a block, K samples of one, M samples made of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import gcd
from typing import NamedTuple

import numpy as np

_MADE_AT_ONCE = 32
"""More of a stretch's products are with zeros where it makes more; where it makes fewer, there are more of them."""
_STRETCHES_AT_ONCE = 16
"""They begin evenly apart, as the filter's places hardly do: over more, they would have to be longer."""
_PRODUCTS_AT_ONCE = 2**18
"""BLAS takes threads of its own for more: beyond those that read, and for several times the CPU."""


class _Stretches(NamedTuple):
    """Some that follow each other."""

    first: int
    """First sample of the first, counted from the block's; below 0 before it."""
    step: int
    """Samples from the beginning of one to that of the next."""
    weights_SKM: np.ndarray

    @property
    def stop(self) -> int:
        """One past the last sample of the last."""
        count, length, _ = self.weights_SKM.shape
        return self.first + (count - 1) * self.step + length


class _Filter(NamedTuple):
    given: int
    """Samples of a block."""
    made: int
    stretches: tuple[_Stretches, ...]


def length_after(samples: int, rate: int, new_rate: int) -> int:
    """Samples of a sound once it is ``resampled``."""
    return -(-samples * new_rate // rate)


def resampled(wave_CN: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """A sound (channels, samples) at another rate, float32; what the new rate can't hold is filtered out before."""
    shared = gcd(rate, new_rate)
    block = _filter_of(new_rate // shared, rate // shared)
    channels, samples = wave_CN.shape
    length = length_after(samples, rate, new_rate)
    blocks = -(-length // block.made)
    before = -min(0, *(some.first for some in block.stretches))
    needed = (blocks - 1) * block.given + max(some.stop for some in block.stretches)
    silent_CN = np.zeros((channels, before + max(samples, needed)), dtype=np.float32)
    silent_CN[:, before : before + samples] = wave_CN
    all_stretches = sum(len(some.weights_SKM) for some in block.stretches)
    made_CBSM = np.empty(
        (channels, blocks, all_stretches, block.stretches[0].weights_SKM.shape[2]), np.float32
    )
    place = 0
    for some in block.stretches:
        count, _, _ = some.weights_SKM.shape
        out_CSBM = made_CBSM[:, :, place : place + count].swapaxes(1, 2)
        _multiply(silent_CN[:, before + some.first :], block.given, some, out_CSBM)
        place += count
    return made_CBSM.reshape(channels, blocks, -1)[..., : block.made].reshape(channels, -1)[:, :length]


def _multiply(silent_CN: np.ndarray, given: int, some: _Stretches, out_CSBM: np.ndarray) -> None:
    """Stretches of all blocks, of which each begins ``given`` samples after the one before."""
    count, length, made = some.weights_SKM.shape
    channels, _, blocks, _ = out_CSBM.shape
    channel, sample = silent_CN.strides
    given_CSBK = np.lib.stride_tricks.as_strided(
        silent_CN,
        (channels, count, blocks, length),
        (channel, some.step * sample, given * sample, sample),
    )
    at_once = max(1, _PRODUCTS_AT_ONCE // (length * made))
    for start in range(0, blocks, at_once):
        part = slice(start, start + at_once)
        np.matmul(given_CSBK[:, :, part], some.weights_SKM, out=out_CSBM[:, :, part])


@lru_cache(maxsize=32)
def _filter_of(up: int, down: int) -> _Filter:
    """What makes ``up`` samples of each ``down``."""
    longest = 20 * max(up, down) // up + 2 + (_MADE_AT_ONCE - 1) * down // up + _STRETCHES_AT_ONCE
    # A block is no shorter than a stretch: BLAS takes no rows that overlap.
    periods = max(-(-_MADE_AT_ONCE // up), -(-longest // down))
    block = periods * up
    made = -(-block // -(-block // _MADE_AT_ONCE))
    places = range(0, block, made)
    taps = _low_pass(up, down)
    groups = (
        places[first : first + _STRETCHES_AT_ONCE] for first in range(0, len(places), _STRETCHES_AT_ONCE)
    )
    return _Filter(periods * down, block, tuple(_stretches(taps, group, made, up, down) for group in groups))


def _low_pass(up: int, down: int) -> np.ndarray:
    """Taps, a whole number on both sides of the middle one."""
    from scipy.signal import firwin

    longer = max(up, down)
    taps: np.ndarray = firwin(20 * longer + 1, 1 / longer, window=("kaiser", 5.0))
    return taps.astype(np.float32) * np.float32(up)


def _stretches(taps: np.ndarray, places: Sequence[int], made: int, up: int, down: int) -> _Stretches:
    """Of the sample m those n count that lie under the filter, at ``m * down - n * up`` from its middle."""
    half = len(taps) // 2
    place_S1 = np.array(places)[:, None]
    count_S1 = np.arange(len(places))[:, None]
    first_S1 = -((half - place_S1 * down) // up)
    stop_S1 = ((place_S1 + made - 1) * down + half) // up + 1
    step = round(made * down / up)
    first = int((first_S1 - count_S1 * step).min())
    length = int((stop_S1 - count_S1 * step).max()) - first
    given_SK1 = (first + count_S1 * step + np.arange(length))[:, :, None]
    made_S1M = (place_S1 + np.arange(made))[:, None]
    tap_SKM = made_S1M * down - given_SK1 * up + half
    under = (tap_SKM >= 0) & (tap_SKM <= 2 * half)
    weights_SKM = np.where(under, taps[np.where(under, tap_SKM, 0)], np.float32(0))
    return _Stretches(first, step, weights_SKM)
