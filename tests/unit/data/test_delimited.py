"""CSV and JSON lines as people have them: how they are written is found and said, and no value is another than it stands there."""

import time
from pathlib import Path

import numpy as np
import pyarrow.csv as arrow_csv
from data_jobs import job_of

from orchestrator.data.fit import training_batches
from orchestrator.data.prepare_data import prepare_job
from orchestrator.data.prepared import Prepared


def prepared(folder: Path, text: str | bytes, **data) -> Prepared:
    """A CSV of this text, prepared as training data of an ``mlp``."""
    file = folder / "t.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = {"kind": "csv", "path": str(file), **data.pop("source", {})}
    return prepare_job(job_of({"train": source, **data}), str(folder), str(folder / "cache"))


def features(data: Prepared) -> np.ndarray:
    return np.concatenate([batch["features"] for batch in training_batches(data.train, 0)])


def test_a_column_may_have_dots_in_its_name(tmp_path):
    text = "Sepal.Length,Sepal.Width,label\n" + "".join(f"{i}.5,{i},{i % 2}\n" for i in range(20))
    data = prepared(tmp_path, text, columns={"features": ["Sepal.Length", "Sepal.Width"]})
    np.testing.assert_array_equal(features(data), [(i + 0.5, i) for i in range(20)])


def test_preparing_is_linear_in_the_number_of_columns(tmp_path):
    columns = 10_000
    rows = [",".join(str(i * j % 7) for j in range(columns)) + f",{i % 2}" for i in range(40)]
    text = ",".join([*(f"c{j}" for j in range(columns)), "label"]) + "\n" + "\n".join(rows)
    prepared(tmp_path, "a,label\n1,0\n2,1\n", columns={"features": "*"})  # imports what it needs
    (tmp_path / "again.csv").write_text(text)
    start = time.process_time()
    arrow_csv.read_csv(tmp_path / "again.csv")
    read = time.process_time() - start
    start = time.process_time()
    data = prepared(tmp_path, text, columns={"features": "*"})
    assert time.process_time() - start < 3 * read + 1
    assert data.dims["features"] == columns
