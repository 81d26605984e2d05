"""What a worker of the pool answers, also where it fails."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from asked import stones

from orchestrator.errors import DataError, InfrastructureError
from orchestrator.inference.pool_worker import PoolWorker, failure_to_json, json_to_failure


def test_a_worker_tells_rows_and_faults_alike(classifier, tmp_path):
    rows = stones(30).to_pandas()
    rows.loc[21, "weight"] = None
    pq.write_table(pa.Table.from_pandas(rows), tmp_path / "new.parquet", row_group_size=10)
    worker = PoolWorker(classifier.task(tmp_path / "new.parquet", tmp_path / "out").model_dump_json())
    done = worker({"part": np.array([1])})
    assert (done["part"].tolist(), done["rows"].tolist(), done["failed"].tolist()) == ([1], [10], [""])
    (failed,) = worker({"part": np.array([2])})["failed"].tolist()
    told = json.loads(failed)
    assert told["kind"] == "DataError"
    assert "new.parquet, row 21: column 'weight' has no value there" in told["message"]


def test_a_checkpoint_that_is_gone_is_told_too(classifier, tmp_path):
    pq.write_table(stones(4), tmp_path / "new.parquet")
    task = classifier.task(tmp_path / "new.parquet", tmp_path / "out")
    worker = PoolWorker(task.model_copy(update={"checkpoint": str(tmp_path / "gone")}).model_dump_json())
    (failed,) = worker({"part": np.array([0])})["failed"].tolist()
    assert json.loads(failed)["kind"] == "CheckpointError"


def test_failures_travel_by_the_nearest_kind_that_has_a_name():
    class OwnFault(DataError):
        pass

    told = [
        json_to_failure(failure_to_json(error))
        for error in (OwnFault("row 3: bad"), ValueError("two\nlines"))
    ]
    assert [(type(one), str(one)) for one in told] == [
        (DataError, "row 3: bad"),
        (InfrastructureError, "predictions failed: ValueError: two"),
    ]
