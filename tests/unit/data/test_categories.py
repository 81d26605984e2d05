import pyarrow as pa
import pytest

from orchestrator.data.categories import encode_categories, fit_categories
from orchestrator.errors import DataError


@pytest.mark.parametrize("values", [["b", "a", "b", "c"], [3, 1, 3, 7], [True, False, True, False]])
def test_encoding_is_the_index_among_sorted_values(values):
    column = pa.chunked_array([values[:2], values[2:]])
    fitted = fit_categories(column, "x")
    assert fitted == sorted(set(values))
    assert encode_categories(column, fitted, "x").tolist() == [fitted.index(v) for v in values]


def test_an_unseen_value_is_a_sentence_or_the_unknown_index():
    with pytest.raises(DataError, match=r"'color'.*'green'.*unseen: unknown"):
        encode_categories(pa.array(["red", "green"]), ["red"], "color")
    assert encode_categories(pa.array(["red", "green", None]), ["red"], "color", unknown=1).tolist() == [
        0,
        1,
        1,
    ]


def test_a_missing_value_in_training_is_a_sentence():
    with pytest.raises(DataError, match=r"'x' has missing values"):
        fit_categories(pa.array(["a", None]), "x")


def test_values_come_back_from_json_with_another_width():
    assert encode_categories(pa.array([2, 1], pa.int8()), [1, 2], "x").tolist() == [1, 0]
