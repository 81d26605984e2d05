"""What people do to a table before they train, against pandas and scikit-learn; learned from training rows, served alike."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from data_jobs import job_of
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import QuantileTransformer

from orchestrator.data.fit import training_batches
from orchestrator.data.prepare_data import prepare_job
from orchestrator.data.serving import inputs_of
from orchestrator.data.transforms import apply_all
from orchestrator.data.transforms.fitting import fit_all
from orchestrator.data.transforms.samples import ColumnSamples
from orchestrator.errors import DataError
from orchestrator.planning.plan import DataFacts
from orchestrator.planning.resolve import resolve
from orchestrator.spec.data import DataSpec

VALUES = np.random.default_rng(0).lognormal(size=(200, 3)).astype(np.float32)
GAPS = np.random.default_rng(1).random((200, 3)) < [0.2, 0.0, 0.1]


def transformed(values, *sections, tensor="features", **more):
    """A tensor after transforms that were fitted on it, in batches of 64."""
    transforms = DataSpec.model_validate(
        {"train": {"kind": "builtin", "name": "iris"}, "transforms": list(sections)}
    ).transforms
    whole = {tensor: values, "sample_id": np.arange(len(values)), **more}
    batches = [{name: part[at : at + 64] for name, part in whole.items()} for at in range(0, len(values), 64)]
    fitted = fit_all(transforms, (batches for _ in iter(int, 1)))
    return apply_all(transforms, fitted, whole, training=False)


@pytest.mark.parametrize("by", ["mean", "median"])
@pytest.mark.parametrize("indicator", [False, True])
def test_impute_fills_in_as_scikit_learn_does(by, indicator):
    values = np.where(GAPS, np.float32(np.nan), VALUES)
    out = transformed(values, {"kind": "impute", "tensor": "features", "by": by, "indicator": indicator})
    expected = SimpleImputer(strategy=by, add_indicator=indicator).fit_transform(values)
    np.testing.assert_allclose(out["features"], expected, rtol=1e-6)


def test_missing_words_become_a_category_of_their_own():
    words = np.array(["a", None, "b", None], dtype=object)
    impute = {"kind": "impute", "tensor": "categories", "by": "category"}
    out = transformed(words, impute, {"kind": "encode", "tensor": "categories"}, tensor="categories")
    assert out["categories"].tolist() == [1, 0, 2, 0]
    with pytest.raises(DataError, match=r"impute, by: category.*drop"):
        transformed(words, {"kind": "encode", "tensor": "categories"}, tensor="categories")


def test_a_column_without_values_is_named():
    values = np.stack([np.ones(5), np.full(5, np.nan)], axis=1).astype(np.float32)
    with pytest.raises(DataError, match="column 2 of 'features' has no value"):
        transformed(values, {"kind": "impute", "tensor": "features"})


def test_parts_of_dates_are_those_of_pandas():
    dates = pd.date_range("1969-12-30 05:17", periods=200, freq="37h")
    values = dates.to_numpy().astype("datetime64[us]")[:, None]
    parts = ["year", "month", "day", "weekday", "hour", "minute", "days"]
    out = transformed(
        values, {"kind": "date", "tensor": "dates", "parts": parts, "cyclic": False}, tensor="dates"
    )
    days = (dates - pd.Timestamp(0)) / pd.Timedelta(days=1)
    expected = [dates.year, dates.month, dates.day, dates.day_of_week, dates.hour, dates.minute, days]
    np.testing.assert_allclose(out["dates"], np.stack(expected, axis=1), rtol=1e-6)


def test_texts_are_dates_by_their_format_and_december_is_beside_january():
    texts = np.array(["01.01.2024", "01.12.2024", None, "01.07.2024"], dtype=object)
    date = {"kind": "date", "tensor": "dates", "parts": ["month"], "format": "%d.%m.%Y"}
    out = transformed(texts, date, tensor="dates")["dates"]
    assert np.isnan(out[2]).all()
    assert np.linalg.norm(out[0] - out[1]) < 0.6 < 1.9 < np.linalg.norm(out[0] - out[3])
    texts[0] = "2024-01-01"
    with pytest.raises(DataError, match="'2024-01-01' in 'dates' is no date of the format"):
        transformed(texts, date, tensor="dates")
    with pytest.raises(DataError, match="give it the dates' format"):
        transformed(texts, {"kind": "date", "tensor": "dates"}, tensor="dates")


@pytest.mark.parametrize("output", ["uniform", "normal"])
def test_quantile_is_scikit_learns(output):
    out = transformed(VALUES, {"kind": "quantile", "tensor": "features", "quantiles": 50, "output": output})
    reference = QuantileTransformer(n_quantiles=50, output_distribution=output).fit_transform(VALUES)
    np.testing.assert_allclose(out["features"], reference, atol=1e-3)


def test_clip_and_log():
    out = transformed(VALUES, {"kind": "clip", "tensor": "features", "quantile": 0.05})["features"]
    low, high = np.quantile(VALUES.astype(np.float64), [0.05, 0.95], axis=0)
    np.testing.assert_allclose(out, np.clip(VALUES, low, high), rtol=1e-6)
    out = transformed(VALUES, {"kind": "clip", "tensor": "features", "high": 1.0})["features"]
    np.testing.assert_array_equal(out, np.minimum(VALUES, 1))
    out = transformed(-VALUES, {"kind": "log", "tensor": "features"})["features"]
    np.testing.assert_allclose(out, -np.log1p(VALUES), rtol=1e-5)


def test_joined_tensors_are_fitted_before_what_follows():
    other = VALUES[:, :1] * 1000
    sections = (
        {"kind": "normalize", "tensor": "other"},
        {"kind": "join", "tensor": "features", "append": ["other"]},
        {"kind": "normalize", "tensor": "features"},
    )
    out = transformed(VALUES, *sections, other=other)
    assert "other" not in out
    np.testing.assert_allclose(out["features"].std(axis=0), 1, rtol=1e-4)
    np.testing.assert_allclose(out["features"][:, 3], out["features"][:, 0], atol=1e-4)


def test_quantiles_of_many_values_come_from_a_share_that_no_batching_changes(monkeypatch):
    monkeypatch.setattr("orchestrator.data.transforms.samples._MOST_VALUES", 1000)
    values = np.random.default_rng(0).random((20_000, 1))
    found = []
    for size in (64, 1000):
        samples = ColumnSamples()
        for at in range(0, len(values), size):
            samples.update(np.arange(at, min(at + size, len(values))), values[at : at + size])
        found.append(samples.quantiles([0.5])[0, 0])
    assert found[0] == found[1] == pytest.approx(0.5, abs=0.06)


CSV = "age,city,joined,paid,label\n" + "".join(
    f"{'' if i % 10 == 3 else i},{'' if i % 7 == 2 else 'uvw'[i % 3]},2024-{i % 12 + 1:02}-01,{10.0 ** (i % 5)},"
    f"{'' if i == 20 else i % 2}\n"
    for i in range(60)
)
DATA = {
    "columns": {
        "features": ["age"],
        "money": ["paid"],
        "dates": ["joined"],
        "categories": ["city"],
        "label": "label",
    },
    "transforms": [
        {"kind": "drop", "tensor": "label"},
        {"kind": "impute", "tensor": "features", "indicator": True},
        {"kind": "impute", "tensor": "categories", "by": "category"},
        {"kind": "encode", "tensor": "categories"},
        {"kind": "date", "tensor": "dates"},
        {"kind": "log", "tensor": "money"},
        {"kind": "join", "tensor": "features", "append": ["money", "dates"]},
        {"kind": "normalize", "tensor": "features"},
    ],
}


def test_a_table_with_words_dates_and_gaps_is_prepared_and_served_alike(tmp_path):
    (tmp_path / "t.csv").write_text(CSV)
    job = job_of({"train": {"kind": "csv", "path": "t.csv"}, **DATA})
    prepared = prepare_job(job, str(tmp_path), str(tmp_path / "cache"))
    assert prepared.train_samples == 59
    assert prepared.notes == (
        f"{tmp_path}/t.csv: 1 of 60 training rows are dropped for missing values in label",
    )
    assert prepared.dims["features"] == 2 + 1 + 5
    assert prepared.lists["cardinalities"] == (4,)
    batch = next(training_batches(prepared.train, 0))
    trained = apply_all(job.data.transforms, prepared.fitted, batch, training=False)
    known = DataFacts(dims=prepared.dims, lists=prepared.lists)
    inputs = inputs_of(resolve(job, known), prepared)
    frame = pd.read_csv(tmp_path / "t.csv", parse_dates=["joined"]).drop(index=20)
    served = inputs.tensors(pa.Table.from_pandas(frame.drop(columns="label"), preserve_index=False))
    np.testing.assert_array_equal(served["features"], trained["features"])
    np.testing.assert_array_equal(served["categories"], trained["categories"])


def test_what_a_split_holds_out_teaches_nothing(tmp_path):
    rows = [f"{'' if i == 3 else 1 if i < 50 else 1000},{i % 2}" for i in range(60)]
    (tmp_path / "t.csv").write_text("age,label\n" + "\n".join(rows) + "\n")
    data = {
        "columns": {"features": ["age"]},
        "transforms": [{"kind": "impute", "tensor": "features", "by": "mean"}],
    }
    held_out = {"kind": "split", "fraction": 1 / 6, "by": "position"}
    job = job_of({"train": {"kind": "csv", "path": "t.csv"}, "eval": held_out, **data})
    prepared = prepare_job(job, str(tmp_path), str(tmp_path / "cache"))
    assert prepared.fitted[0]["values"] == [1.0]


def test_the_refusal_of_dates_names_what_makes_them_numbers(tmp_path):
    (tmp_path / "t.csv").write_text(CSV)
    data = {"columns": {"features": ["paid", "joined"]}, "transforms": [{"kind": "drop", "tensor": "label"}]}
    job = job_of({"train": {"kind": "csv", "path": "t.csv"}, **data})
    with pytest.raises(DataError, match=r"kind: date, tensor: dates.*kind: join"):
        prepare_job(job, str(tmp_path), str(tmp_path / "cache"))


def test_an_imputed_label_is_refused():
    with pytest.raises(ValueError, match="kind: drop, tensor: label"):
        transformed(VALUES, {"kind": "impute", "tensor": "label"})
