import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.hashing import feistel, mix, mix_array, permutation, sample_seeds

WORDS = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(("seed", "first"), [(0, 0xE220A8397B1DCDAF), (1234567, 6457827717110365317)])
def test_one_number_is_mixed_as_splitmix64_does(seed, first):
    """First outputs of the published generator: its state is the seed, and a step adds the golden ratio."""
    assert mix(seed) == first


@given(WORDS, st.lists(WORDS, min_size=1, max_size=8))
def test_an_array_is_mixed_as_its_numbers_are(key, values):
    mixed = mix_array(mix(key), np.array(values, dtype=np.uint64))
    assert mixed.dtype == np.uint64
    assert mixed.tolist() == [mix(key, value) for value in values]


@given(st.integers(-(2**63), 2**64 - 1))
def test_numbers_count_by_their_64_bits(number):
    assert mix(number) == mix(number % 2**64)
    assert mix(number, 1) != mix(1, number) or number == 1


@given(WORDS, st.integers(0, 300))
def test_a_permutation_has_each_number_once(key, size):
    assert sorted(permutation(key, size).tolist()) == list(range(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9, 255, 256, 257, 4096, 4097])
def test_a_network_permutes_every_size_and_any_part_of_it(size):
    whole = feistel(5, size, np.arange(size))
    assert whole.dtype == np.int64
    assert np.sort(whole).tolist() == list(range(size))
    part = np.arange(size)[::-3].reshape(1, -1)
    assert np.array_equal(feistel(5, size, part), whole[part])


@pytest.mark.parametrize(
    ("size", "first", "digest"),
    [
        (1, [0], "af5570f5a1810b7a"),
        (2, [1, 0], "4cbbd8ca5215b8d1"),
        (3, [2, 0, 1], "53afea624a503a0b"),
        (4, [3, 0, 1, 2], "6e0a15f35af8a5fb"),
        (5, [0, 4, 2, 1, 3], "a7da4c93f8664775"),
        (16, [5, 9, 11, 7, 3, 14], "09eb3c9e5e188e47"),
        (17, [13, 9, 12, 6, 2, 4], "71b44bb57aa3d78a"),
        (64, [13, 47, 48, 45, 39, 21], "dce6103603038b6f"),
        (65, [45, 31, 7, 46, 51, 27], "1fe3ccf795da1218"),
        (1000, [439, 352, 945, 206, 157, 729], "b2155b5ca65309ee"),
        (70_000, [65800, 22452, 25246, 65571, 47538, 1928], "44d5fe0d19c0902f"),
    ],
)
def test_networks_never_change(size, first, digest):
    """A resumed run must find the order that it left, on any machine and with any later version."""
    sent = feistel(12, size, np.arange(size))
    assert sent[:6].tolist() == first
    assert hashlib.sha256(sent.astype("<i8").tobytes()).hexdigest()[:16] == digest


def test_seeds_of_samples_never_change():
    seeds = sample_seeds(3, np.array([0, 0, 1, 2**40]), np.array([0, 5, 5, 2**50]))
    assert seeds.dtype == np.int64
    assert seeds.tolist() == [
        -3891953579506246619,
        7669054479099444145,
        -2622132911247883699,
        -3977541665831740850,
    ]


def test_each_sample_has_a_seed_of_its_own_in_each_epoch_and_run():
    epochs, samples = np.divmod(np.arange(4000), 1000)
    seeds = {seed for run in range(3) for seed in sample_seeds(run, epochs, samples).tolist()}
    assert len(seeds) == 12_000
