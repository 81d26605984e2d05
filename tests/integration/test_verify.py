"""``verify`` on a real job: real data, all four runs, no Ray."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_jobs import job_of, plan_of
from safetensors.torch import save_file

from orchestrator import data, worker
from orchestrator import verify as verifying
from orchestrator.checkpoint import (
    Checkpoint,
    CheckpointReader,
    Checkpoints,
    newest_good,
    relative_distance,
    unequal_elements,
)
from orchestrator.errors import DataError, NotFoundError
from orchestrator.planning.plan import Plan
from orchestrator.sdk import make_plan
from orchestrator.spec.job import JobSpec
from orchestrator.spec.strategy import FsdpStrategy, ZeroStrategy
from orchestrator.verify import VerifyRow, verify

JOB = {
    "name": "verified",
    "model": {"family": "mlp", "size": "debug", "dropout": 0.3},
    "data": {
        "train": {"kind": "builtin", "name": "breast_cancer"},
        "transforms": [{"kind": "normalize", "tensor": "features", "per": "element"}],
    },
    "training": {"max_steps": 4, "global_batch_size": 24, "micro_batch_size": 4},
    "scaling": {"workers": 2},
}


@pytest.mark.parametrize("strategy", [{"kind": "ddp"}, {"kind": "zero", "stage": 3}], ids=str)
def test_a_job_is_proved(
    strategy: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path))
    shown: list[VerifyRow] = []
    rows = verify(
        make_plan(JobSpec.model_validate({**JOB, "strategy": strategy})), steps=4, on_row=shown.append
    )
    assert rows == shown
    assert [row.quantity for row in rows] == [
        "losses",
        "gradient norms",
        "parameters",
        "losses",
        "all state, unequal elements",
        "all state, unequal elements",
        "losses",
    ]
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]


def _plan_from(weights: str) -> Plan:
    return make_plan(JobSpec.model_validate({**JOB, "initialize": {"weights": weights, "strict": False}}))


def test_the_runs_start_from_the_weights_that_the_job_starts_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path))
    with pytest.raises(NotFoundError, match=r"initialize\.weights: there is no .*absent"):
        verify(_plan_from(str(tmp_path / "absent.safetensors")), steps=2)

    bias = torch.tensor([0.25, -0.75])
    save_file({"head.bias": bias}, tmp_path / "start.safetensors")
    small = verifying._small(_plan_from(str(tmp_path / "start.safetensors")), 1, str(tmp_path), steps=2)
    prepared = data.prepare(small).model_dump_json()
    verifying._train(small.model_dump_json(), prepared, 0, 0, None, str(tmp_path / "saved"))
    started = newest_good(str(tmp_path / "saved"))
    assert started is not None and started.step == 0
    with CheckpointReader(started) as reader:
        assert torch.equal(reader.read("parameter", "model/head.bias", 0, 2), bias)


def test_a_bad_batch_is_refused_as_in_a_run(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    features = {f"x{column}": [float(row) for row in range(24)] for column in range(8)}
    pq.write_table(pa.table({**features, "label": [0, 1, 8] * 8}), path)
    source = {"train": {"kind": "parquet", "path": str(path)}, "columns": {"features": list(features)}}
    plan = plan_of(
        job_of(source, model={"family": "mlp", "outputs": 8}), tmp_path, steps=4
    )  # of 8 features and 8 classes
    with pytest.raises(
        DataError, match="row 2: the label in column 'label' is 8, but there are 8 classes"
    ) as in_a_run:
        worker.run(
            {
                "plan": plan.model_dump_json(),
                "prepared": data.prepare(plan).model_dump_json(),
                "launch": 1,
                "started_at": 0.0,
            }
        )
    with pytest.raises(DataError) as in_verify:
        verify(plan, steps=2)
    assert str(in_verify.value) == str(in_a_run.value)


class _Whole:
    kind, name, shape, start, until_update = "parameter", "model/weight", (3, 2), 0, True

    def __init__(self, values: list[float]) -> None:
        self.values = torch.tensor(values)


def _checkpoint(root: Path, values: list[float]) -> Checkpoint:
    store = Checkpoints(str(root), attempt=1, rank=0, world_size=1)
    store.save(1, [_Whole(values)], {}, asynchronous=False)
    found = newest_good(str(root))
    assert found is not None
    return found


def test_differences_are_measured(tmp_path: Path) -> None:
    one = _checkpoint(tmp_path / "a", [3.0, 4.0, 0.0, 0.0, 0.0, 0.0])
    other = _checkpoint(tmp_path / "b", [3.0, 4.0, 0.0, 0.0, 0.0, 0.5])
    assert unequal_elements(one, one) == 0 and unequal_elements(other, one) == 1
    assert relative_distance(other, one) == pytest.approx(0.1)
    assert verifying._largest({2: [1.1]}, {1: [9.0], 2: [1.0]}) == pytest.approx(0.1)
    assert verifying._largest({2: [float("nan")]}, {2: [1.0]}) == float("inf")
    assert verifying._largest({}, {}) == float("inf")  # nothing compared proves nothing


def test_a_row_passes_within_its_tolerance() -> None:
    row = VerifyRow(check="a", quantity="losses", difference=1e-5, tolerance=1e-5)
    assert row.passed and not row.model_copy(update={"difference": 1.1e-5}).passed


@pytest.mark.parametrize(
    ("strategy", "workers", "group"),
    [
        (FsdpStrategy(shard_group=8), 4, 2),
        (FsdpStrategy(shard_group=8), 1, None),
        (FsdpStrategy(shard_group=2), 2, 1),
        (ZeroStrategy(stage=3, shard_group=8), 4, 2),
        (ZeroStrategy(stage=3, shard_group=8), 2, None),
        (ZeroStrategy(stage=3, quantized_weights=True), 2, None),
    ],
)
def test_fewer_workers_are_still_in_several_groups_and_round_nothing(strategy, workers, group):
    smaller = verifying._smaller(strategy, workers)
    assert smaller.shard_group == group
    assert not getattr(smaller, "quantized_weights", False)
