import numpy as np
import pytest
from PIL import Image

from orchestrator.data.transforms.images import random_crop, random_flip, resize, uniform_from_seed

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("size", [(8, 8), (5, 3), (20, 17)])
def test_resize_equals_pillow(size):
    image = RANDOM.random((2, 1, 13, 11), dtype=np.float32)
    ours = resize(image, *size)
    for i in range(2):
        theirs = Image.fromarray(image[i, 0]).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(ours[i, 0], np.asarray(theirs), atol=2e-5)


def test_random_crop_finds_each_sample_in_its_padded_image():
    image = RANDOM.random((50, 2, 6, 6), dtype=np.float32)
    seeds = np.arange(50)
    cut = random_crop(image, seeds, 2, (6, 6))
    padded = np.pad(image, ((0, 0), (0, 0), (2, 2), (2, 2)))
    corners = set()
    for i in range(50):
        places = [
            (y, x)
            for y in range(5)
            for x in range(5)
            if np.array_equal(padded[i, :, y : y + 6, x : x + 6], cut[i])
        ]
        assert len(places) == 1
        corners.add(places[0])
    assert len(corners) > 12  # of 25


def test_flip_mirrors_about_half():
    image = RANDOM.random((400, 1, 2, 3), dtype=np.float32)
    flipped = random_flip(image, np.arange(400))
    mirrored = (flipped == image[..., ::-1]).all(axis=(1, 2, 3))
    assert 160 < mirrored.sum() < 240
    assert (mirrored | (flipped == image).all(axis=(1, 2, 3))).all()


@pytest.mark.parametrize("transform", [random_flip, lambda i, s: random_crop(i, s, 2, (4, 4))])
def test_augmentation_depends_on_the_sample_alone(transform):
    image = RANDOM.random((30, 1, 4, 4), dtype=np.float32)
    seeds = RANDOM.integers(-(2**63), 2**63, 30)
    whole = transform(image, seeds)
    parts = np.concatenate([transform(image[:7], seeds[:7]), transform(image[7:], seeds[7:])])
    np.testing.assert_array_equal(whole, parts)
    assert not np.array_equal(whole, transform(image, seeds + 1))


def test_uniform_numbers_are_uniform():
    numbers = uniform_from_seed(np.arange(20_000), 2, salt=3)
    counts = np.histogram(numbers, bins=10, range=(0, 1))[0]
    assert np.abs(counts - 4000).max() < 300
    assert abs(np.corrcoef(numbers[:, 0], numbers[:, 1])[0, 1]) < 0.03
