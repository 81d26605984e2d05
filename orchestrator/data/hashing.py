"""Hashes and small permutations that are the same on every machine and with every version of numpy."""

from __future__ import annotations

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def mix(*numbers: int) -> int:
    """A 64-bit hash of whole numbers, order counts. SplitMix64's finalizer (Steele et al. 2014) after each."""
    state = 0
    for number in numbers:
        state = ((state ^ (number & _MASK)) + _GOLDEN) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def mix_array(key: int, values: np.ndarray) -> np.ndarray:
    """A 64-bit hash (uint64) of each value, keyed."""
    state = values.astype(np.uint64) ^ np.uint64(key)
    state += np.uint64(_GOLDEN)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def permutation(key: int, size: int) -> np.ndarray:
    """The numbers below ``size`` in an order that the key decides. Takes O(size) memory: for bounded sizes."""
    return np.argsort(mix_array(key, np.arange(size, dtype=np.uint64)), kind="stable")


def feistel(key: int, size: int, index: np.ndarray) -> np.ndarray:
    """Where a keyed permutation of the numbers below ``size`` sends each index, without making the permutation.

    A balanced Feistel network of four rounds over the next even number of bits, walked until the value falls
    below ``size`` (Black and Rogaway 2002): at most four rounds of walking on average.
    """
    half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
    low_mask = np.uint64((1 << half) - 1)
    keys = [mix(key, round_number) for round_number in range(4)]
    value = index.astype(np.uint64)
    outside = np.ones(value.shape, dtype=bool)
    while outside.any():
        walked = value[outside]
        left, right = walked >> np.uint64(half), walked & low_mask
        for round_key in keys:
            left, right = right, left ^ (mix_array(round_key, right) & low_mask)
        value[outside] = (left << np.uint64(half)) | right
        outside = value >= np.uint64(size)
    return value.astype(np.int64)


def sample_seeds(seed: int, epoch: np.ndarray, sample_id: np.ndarray) -> np.ndarray:
    """The int64 seed of each sample in an epoch: all that per-sample randomness may depend on."""
    hashed = mix_array(mix(seed, 0x5EED), sample_id) ^ mix_array(mix(seed, 0xE90C), epoch)
    return mix_array(0, hashed).view(np.int64)
