"""Both transports, one result: what Ray Data reads is what a worker reads by itself."""

import os
import tempfile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_jobs import job_of, plan_of
from golden_batches import CASES, GOLDEN, batches_digest, case_data

from orchestrator import data
from orchestrator.data.reading import chunks, training_chunks
from orchestrator.errors import DataError

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def ray_instance():
    import ray

    os.environ.pop("RAY_ADDRESS", None)
    with tempfile.TemporaryDirectory(prefix="tw", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            logging_level="ERROR",
            object_store_memory=200 * 2**20,
            _temp_dir=folder,
        )
        yield ray
        ray.shutdown()


@pytest.fixture
def spec(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(4):
        ids = np.arange(number * 500, number * 500 + 500)
        values = pa.FixedSizeListArray.from_arrays(np.repeat(ids, 64).astype(np.int32), 64)
        pq.write_table(
            pa.table({"features": values, "label": ids % 5}), folder / f"{number}.parquet", row_group_size=50
        )
    return {
        "train": {"kind": "parquet", "path": str(folder)},
        "eval": {"kind": "split"},
        "transforms": [{"kind": "normalize", "tensor": "features", "per": "tensor"}],
    }


def all_steps(spec, tmp_path, reader: str, start: int, rank: int) -> list[dict[str, Any]]:
    plan = plan_of(job_of({**spec, "reader": reader}, batch=32), tmp_path, workers=2, steps=150, micro=8)
    prepared = data.prepare(plan)
    stream = data.open_train(prepared, plan, rank=rank, world_size=2, start_step=start)
    steps = [
        {name: np.concatenate([m[name] for m in step.micros]) for name in step.micros[0]}
        | {"epoch": step.epoch}
        for step in stream
    ]
    stream.close()
    return steps


@pytest.mark.parametrize("start", [0, 77])
@pytest.mark.parametrize("small_tasks", [False, True])
def test_both_readers_give_the_same(spec, tmp_path, monkeypatch, start, small_tasks):
    if small_tasks:
        # Many chunks, tasks and datasets, as a long run has them.
        monkeypatch.setattr(chunks, "CHUNK_BYTES", 10_000)
        monkeypatch.setattr(training_chunks, "TASK_BYTES", 50_000)
        monkeypatch.setattr("orchestrator.data.reading.ray_reader._TASKS_PER_DATASET", 3)
    ours = all_steps(spec, tmp_path, "ray", start, rank=1)
    alone = all_steps(spec, tmp_path, "worker", start, rank=1)
    assert len(ours) == len(alone) == 150 - start
    for one, other in zip(ours, alone, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
            assert np.asarray(one[name]).dtype == np.asarray(other[name]).dtype


def test_closing_in_the_middle_ends_reading(spec, tmp_path):
    plan = plan_of(job_of({**spec, "reader": "ray"}, batch=32), tmp_path, steps=10_000)
    stream = data.open_train(data.prepare(plan), plan, rank=0, world_size=1, start_step=0)
    next(stream)
    stream.close()


def test_an_error_in_a_task_is_ours_in_one_sentence(spec, tmp_path):
    plan = plan_of(job_of({**spec, "reader": "ray"}, batch=32), tmp_path)
    prepared = data.prepare(plan)
    for path in (tmp_path / "rows").iterdir():
        path.unlink()
    stream = data.open_train(prepared, plan, rank=0, world_size=1, start_step=0)
    with pytest.raises(DataError) as caught:
        list(stream)
    assert "can't be read" in str(caught.value) and "\n" not in str(caught.value)
    stream.close()


def test_a_pipeline_of_ones_own_is_kept_in_the_order_of_its_ids(tmp_path, monkeypatch):
    (tmp_path / "my_pipeline.py").write_text(
        "import ray.data\n"
        "def rows(count):\n"
        "    return ray.data.range(count, override_num_blocks=4).random_shuffle(seed=1).map_batches(\n"
        "        lambda b: {'key': b['id'], 'features': b['id'][:, None] * [1.0, 2.0], 'label': b['id'] % 3})\n"
        "def twice(count):\n"
        "    return ray.data.range(count).map_batches(lambda b: {'key': b['id'] // 2, 'features': b['id']})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    source = {
        "kind": "pipeline",
        "function": "my_pipeline:rows",
        "arguments": {"count": 120},
        "id_column": "key",
    }
    plan = plan_of(job_of({"train": source, "shuffle": False}, batch=40), tmp_path, steps=3)
    prepared = data.prepare(plan)
    stream = data.open_train(prepared, plan, rank=0, world_size=1, start_step=0)
    features = np.concatenate([step.micros[0]["features"] for step in stream])
    np.testing.assert_array_equal(features[:, 0], np.arange(120))
    assert prepared.dims["outputs"] == 3

    with pytest.raises(DataError, match="to two rows"):
        data.prepare(plan_of(job_of({"train": {**source, "function": "my_pipeline:twice"}}), tmp_path))
    with pytest.raises(DataError, match="makes no column 'other'"):
        data.prepare(plan_of(job_of({"train": {**source, "id_column": "other"}}), tmp_path))


@pytest.mark.parametrize("name", CASES)
def test_batches_of_every_format_are_those_written_down(name, tmp_path):
    family, spec = case_data(name, tmp_path / "source")
    assert batches_digest(family, {**spec, "reader": "ray"}, tmp_path, workers=2) == GOLDEN[name]
