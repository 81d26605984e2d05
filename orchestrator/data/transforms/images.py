"""Images in batches: resize, crop, flip. Arrays are (B, C, H, W), float32 or, for crop and flip, of any type.

What is random is a pure function of each sample's seed, so that a sample is augmented alike on any number of workers.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_SALT = np.uint64(0x61C8864680B583EB)


def uniform_from_seed(sample_seed_B: np.ndarray, count: int, salt: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 (B, count), from each sample's seed (SplitMix64, Steele et al. 2014)."""
    base = _mixed(sample_seed_B.astype(np.uint64) + np.array([salt], np.uint64) * _SALT)
    state = base[:, None] + np.arange(1, count + 1, dtype=np.uint64)[None, :] * _GAMMA
    return (_mixed(state) >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def _mixed(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def resize(image_BCHW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, with each output pixel's filter widened when shrinking so that nothing is skipped (as Pillow does)."""
    down = _filter(image_BCHW.shape[2], height)
    across = _filter(image_BCHW.shape[3], width)
    return np.einsum("hy,bcyx,wx->bchw", down, image_BCHW, across, optimize=True).astype(np.float32)


@lru_cache(maxsize=64)
def _filter(before: int, after: int) -> np.ndarray:
    """Weights (after, before) of the triangle filter; each row sums to 1."""
    scale = before / after
    support = max(1.0, scale)
    center = (np.arange(after) + 0.5) * scale
    distance = np.abs(np.arange(before)[None, :] + 0.5 - center[:, None]) / support
    weight = np.maximum(0.0, 1.0 - distance)
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def random_crop(
    image_BCHW: np.ndarray, sample_seed_B: np.ndarray, padding: int, size: tuple[int, int]
) -> np.ndarray:
    """Pad with zeros on all sides, then cut a place of ``size`` (height, width) drawn from the sample's seed."""
    height, width = image_BCHW.shape[2:]
    room = np.array([height + 2 * padding - size[0] + 1, width + 2 * padding - size[1] + 1])
    corner = np.floor(uniform_from_seed(sample_seed_B, 2, salt=101) * room).astype(np.int64) - padding
    out = np.zeros((*image_BCHW.shape[:2], *size), image_BCHW.dtype)
    # A copy of a rectangle for each image is ten times faster than one gather of all pixels.
    for sample, (top, left) in enumerate(corner.tolist()):
        bottom, right = min(height, top + size[0]), min(width, left + size[1])
        out[sample, :, max(0, -top) : bottom - top, max(0, -left) : right - left] = image_BCHW[
            sample, :, max(0, top) : bottom, max(0, left) : right
        ]
    return out


def random_flip(image_BCHW: np.ndarray, sample_seed_B: np.ndarray, probability: float = 0.5) -> np.ndarray:
    """Mirror left and right with the given probability."""
    flipped = uniform_from_seed(sample_seed_B, 1, salt=102)[:, 0] < probability
    out = np.empty_like(image_BCHW)
    for sample, mirrored in enumerate(flipped.tolist()):
        out[sample] = image_BCHW[sample, ..., ::-1] if mirrored else image_BCHW[sample]
    return out
