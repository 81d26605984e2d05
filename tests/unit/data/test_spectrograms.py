"""Log-mel spectrograms as librosa makes them, and what is hidden of them."""

import librosa_numbers
import numpy as np
import pytest

from orchestrator.data.transforms import apply_all, spectrograms
from orchestrator.errors import DataError
from orchestrator.spec.transforms import Crop, Mel, Pad, SpecAugment

RANDOM = np.random.default_rng(0)


def changed(section, training=True, **batch):
    batch.setdefault("sample_id", np.arange(len(batch["signal"])))
    batch.setdefault("sample_seed", np.arange(len(batch["signal"])) * 7919)
    return apply_all([section], [{}], batch, training=training)


@pytest.mark.parametrize("name", librosa_numbers.CASES)
def test_mel_equals_librosa(name):
    case = librosa_numbers.CASES[name]
    section = Mel(
        rate=case["sr"],
        window=case["n_fft"],
        hop=case["hop_length"],
        mels=case["n_mels"],
        low=case.get("fmin", 0.0),
        high=case.get("fmax"),
        top_db=case["top_db"],
    )
    ours = changed(section, signal=librosa_numbers.sound()[None, None])["signal"]
    with np.load(librosa_numbers.FILE) as theirs:
        np.testing.assert_allclose(ours[0], theirs[name], rtol=0, atol=1e-4)


def test_a_sample_is_the_same_in_any_batch_and_its_length_counts_frames():
    waves = RANDOM.standard_normal((3, 2, 1600), dtype=np.float32)
    length = np.array([1600, 400, 1])
    whole = changed(Mel(mels=8), signal=waves, length=length)
    assert whole["signal"].shape == (3, 16, 11)
    assert whole["length"].tolist() == [11, 3, 1]
    np.testing.assert_array_equal(changed(Mel(mels=8), signal=waves[1:2])["signal"][0], whole["signal"][1])
    image = changed(Mel(mels=8, layout="image"), signal=waves)["signal"]
    np.testing.assert_array_equal(image.reshape(3, 16, 11), changed(Mel(mels=8), signal=waves)["signal"])


@pytest.mark.parametrize(("channels", "samples"), [(1, 400), (1, 9000), (2, 90_000), (600, 400)])
def test_a_sound_is_the_same_among_many_and_alone_whatever_its_size(channels, samples, monkeypatch):
    """Several short ones are computed at once, and long ones in parts."""
    waves = RANDOM.standard_normal((7, channels, samples), dtype=np.float32)
    section = Mel(mels=40, window=1024)
    whole = changed(section, signal=waves)["signal"]
    for number in range(7):
        alone = changed(section, signal=waves[number : number + 1])["signal"]
        np.testing.assert_array_equal(alone[0], whole[number])
    monkeypatch.setattr(spectrograms, "_FRAMES_AT_ONCE", 7)
    np.testing.assert_allclose(changed(section, signal=waves)["signal"], whole, rtol=0, atol=1e-4)


def test_mel_of_what_is_no_sound_is_refused():
    with pytest.raises(DataError, match=r"mel takes sounds .* of the shape \(4, 5, 6\)"):
        changed(Mel(), signal=np.zeros((2, 4, 5, 6), np.float32))


def test_masks_hide_bands_and_stretches_within_the_sounds_own_frames():
    values = np.ones((300, 12, 50), np.float32)
    length = np.full(300, 30)
    section = SpecAugment(frequency_masks=1, frequency_width=4, time_masks=1, time_width=10)
    hidden = changed(section, signal=values, length=length)["signal"] == 0
    bands, stretches = hidden.all(axis=2).sum(1), hidden.all(axis=1).sum(1)
    assert set(bands) == set(range(5))
    assert set(stretches) == set(range(11))
    assert not hidden[:, :, 30:].all(axis=1).any()
    assert (values == 1).all(), "what was given is not written to"
    assert changed(section, training=False, signal=values)["signal"] is values


@pytest.mark.parametrize("section", [SpecAugment(), Crop(length=9)])
def test_what_is_drawn_depends_on_the_sample_alone(section):
    values = RANDOM.standard_normal((30, 8, 40), dtype=np.float32)
    whole = changed(section, signal=values)["signal"]
    seeds = np.arange(30) * 7919
    part = changed(section, signal=values[11:], sample_seed=seeds[11:])["signal"]
    np.testing.assert_array_equal(whole[11:], part)
    assert not np.array_equal(whole, changed(section, signal=values, sample_seed=seeds + 1)["signal"])


def test_crop_takes_a_piece_of_what_is_the_sounds_own():
    values = np.tile(np.arange(1, 41, dtype=np.float32), (500, 1, 1))
    length = np.full(500, 25)
    made = changed(Crop(length=10), signal=values, length=length)
    starts = made["signal"][:, 0, 0]
    assert set(starts) == set(range(1, 17))
    assert (np.diff(made["signal"], axis=2) == 1).all()
    assert (made["length"] == 10).all()
    held_out = changed(Crop(length=10), training=False, signal=values, length=length)
    assert (held_out["signal"][:, 0, 0] == 8).all(), "the center"
    short = changed(Crop(length=10), signal=values, length=np.full(500, 4))
    assert (short["signal"][:, 0, 0] == 1).all() and (short["length"] == 4).all()
    with pytest.raises(DataError, match=r"cuts 41 steps out of 'signal', which has 40"):
        changed(Crop(length=41), signal=values)


def test_pad_brings_signals_to_one_length():
    values = np.ones((2, 3, 5), np.float32)
    padded = changed(Pad(length=8), signal=values)["signal"]
    assert padded.shape == (2, 3, 8) and padded.sum() == values.sum()
    assert changed(Pad(length=4, longer="cut"), signal=values)["signal"].shape == (2, 3, 4)
    with pytest.raises(DataError, match=r"has 5 steps, more than the 4 of pad"):
        changed(Pad(length=4), signal=values)
