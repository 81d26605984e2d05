import numpy as np
import pytest

from orchestrator.data.transforms import apply_all, kind_of
from orchestrator.data.transforms.fitting import fit_all
from orchestrator.errors import DataError
from orchestrator.spec.transforms import Encode, Normalize, RandomCrop, RandomFlip, Resize

RANDOM = np.random.default_rng(0)


def batch(**tensors):
    count = len(next(iter(tensors.values())))
    ids = np.arange(count)
    return {**tensors, "sample_id": ids, "sample_seed": ids * 7919}


def test_augmentation_is_for_training_and_leaves_its_input_alone():
    given = batch(image=RANDOM.random((20, 1, 8, 8)).astype(np.float32))
    kept = given["image"].copy()
    sections = [RandomCrop(padding=2), RandomFlip()]
    assert apply_all(sections, [{}, {}], given, training=False)["image"] is given["image"]
    changed = apply_all(sections, [{}, {}], given, training=True)["image"]
    assert changed.shape == kept.shape
    assert not np.array_equal(changed, kept)
    np.testing.assert_array_equal(given["image"], kept)


def test_resize_and_a_tensor_that_is_no_image():
    given = batch(image=np.ones((2, 3, 10, 6), np.uint8), features=np.ones((2, 4), np.float32))
    out = apply_all([Resize(height=5, width=4)], [{}], given, training=False)["image"]
    np.testing.assert_allclose(out, np.ones((2, 3, 5, 4)), rtol=1e-6)
    with pytest.raises(DataError, match="resize takes images"):
        apply_all([Resize(tensor="features", height=5, width=4)], [{}], given, training=False)


def test_several_columns_are_encoded_each_by_itself():
    section = Encode(tensor="categories")
    values = np.array([["red", "x"], ["blue", "y"], ["red", "z"]], dtype=object)
    (fitted,) = fit_all([section], [[batch(categories=values[:2]), batch(categories=values[2:])]])
    assert fitted == {"values": [["blue", "red"], ["x", "y", "z"]]}
    out = apply_all([section], [fitted], batch(categories=values), training=True)["categories"]
    assert out.tolist() == [[1, 0], [0, 1], [1, 2]]
    assert kind_of(section).sizes(section, fitted) == {"cardinalities": (2, 3)}
    assert out.dtype == np.int64


def test_an_unseen_label_is_a_sentence_or_its_own_number():
    fitted = [{"values": [["a", "b"]]}]
    given = batch(label=np.array(["b", "q"], dtype=object))
    with pytest.raises(DataError, match="has 'q', which no training row has"):
        apply_all([Encode(tensor="label")], fitted, given, training=False)
    known = apply_all([Encode(tensor="label", unseen="unknown")], fitted, given, training=False)
    assert known["label"].tolist() == [1, 2]


def test_encoding_comes_before_what_needs_numbers():
    sections = [Encode(tensor="features"), Normalize(tensor="features")]
    values = np.array([["a"], ["b"], ["a"], ["b"]], dtype=object)
    fitted = fit_all(sections, [[batch(features=values)]] * 2)
    out = apply_all(sections, fitted, batch(features=values), training=False)["features"]
    np.testing.assert_allclose(out[:, 0], [-1, 1, -1, 1])
