"""What outputs mean: classes, probabilities, errors, times."""

import numpy as np
import pandas as pd
import pytest

from orchestrator.telemetry.answers import answer, forecast_table, reconstruction_errors, times_after


def test_classes_have_names_and_probabilities():
    shown = answer("classification", np.log([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]), ("cat", "dog", "owl"))
    assert list(shown["class"]) == ["cat", "owl"]
    np.testing.assert_allclose(shown["probability"], [0.7, 0.8])
    assert shown["probabilities"][0] == {
        "cat": pytest.approx(0.7),
        "dog": pytest.approx(0.2),
        "owl": pytest.approx(0.1),
    }
    assert list(answer("classification", np.eye(3), ())["class"]) == [0, 1, 2]


def test_yes_and_no_and_several_labels():
    shown = answer("binary", np.array([[np.log(3.0)], [-1000.0]]), ("benign", "malign"))
    assert list(shown["class"]) == ["malign", "benign"]
    np.testing.assert_allclose(shown["probability"], [0.75, 1.0])
    labels = answer("multilabel", np.array([[9.0, -9.0, 9.0], [-9.0, -9.0, -9.0]]), ())
    assert list(labels["classes"]) == [["0", "2"], []]


def test_tokens_beyond_a_rows_length_have_no_class():
    outputs = np.array([[[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]]])
    (classes,) = answer("token_classification", outputs, ("O", "NAME"), np.array([2]))["classes"]
    assert classes == ["O", "NAME"]


def test_an_anomaly_has_a_large_error():
    errors = reconstruction_errors(np.zeros((2, 1, 2, 2)), np.array([[[[0, 0], [0, 2]]], [[[0, 0], [0, 0]]]]))
    assert list(errors["error"]) == [1.0, 0.0]


@pytest.mark.parametrize(
    ("past", "step", "after"),
    [
        (["2026-01-31", "2026-02-28", "2026-03-31"], 30 * 86_400_000_000, ["2026-04-30", "2026-05-31"]),
        (["2026-01-01", "2026-01-02", "2026-01-03"], 86_400_000_000, ["2026-01-04", "2026-01-05"]),
        (["2026-01-01", "2026-01-02", "2026-01-05"], 86_400_000_000, ["2026-01-06", "2026-01-07"]),
    ],
)
def test_times_go_on_by_the_calendar_or_the_usual_step(past, step, after):
    found = times_after(pd.Series(pd.to_datetime(past)), 2, step)
    assert [f"{moment:%Y-%m-%d}" for moment in found] == after


def test_a_forecast_goes_on_in_whole_numbers_too():
    table = forecast_table(np.ones((2, 1)), ["load"], "week", pd.Series([7, 8]), 1)
    assert table.to_dict("list") == {"week": [9, 10], "load": [1.0, 1.0]}
