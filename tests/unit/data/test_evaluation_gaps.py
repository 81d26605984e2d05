"""A missing number in evaluation rows is found before training."""

import pandas as pd
import pytest
from data_jobs import job_of

from orchestrator.data.prepare_data import prepare_job
from orchestrator.errors import DataError


def prepared(tmp_path, *, gap, column="y", **data):
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0, 4.0] * 4, "y": [0.5, 1.5, 2.5, 3.5] * 4})
    frame.to_parquet(tmp_path / "train.parquet")
    if gap is not None:
        frame.loc[gap, column] = None
    frame.to_csv(tmp_path / "eval.csv", index=False)
    job = job_of(
        {
            "train": {"kind": "parquet", "path": "train.parquet"},
            "eval": {"kind": "csv", "path": "eval.csv"},
            "columns": {"features": ["a"], "label": ["y"]},
            **data,
        },
        objective={"kind": "regression"},
    )
    return prepare_job(job, str(tmp_path), str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ("y", "row 7: column 'y' has no value there.*kind: drop"),
        ("a", "row 7 has no value in 'a'.*tensor: features"),
    ],
)
def test_the_first_is_named_with_its_row_and_what_mends_it(tmp_path, column, told):
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DataError, match=rf"eval\.csv, {told}"):
            prepared(tmp_path, gap=7, column=column)


def test_whole_rows_and_rows_that_a_transform_mends_are_taken(tmp_path):
    assert prepared(tmp_path, gap=None).eval_samples == 16
    drop = [{"kind": "drop", "tensor": "label"}]
    assert prepared(tmp_path, gap=7, transforms=drop).eval_samples == 15
