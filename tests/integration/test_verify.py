"""``verify`` on a real job: real data, all four runs, no Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator import verify as verifying
from orchestrator.checkpoint import Checkpoint, Checkpoints, newest_good
from orchestrator.sdk import make_plan
from orchestrator.spec.job import JobSpec
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
    assert verifying._unequal(one, one) == 0 and verifying._unequal(other, one) == 1
    assert verifying._distance(other, one) == pytest.approx(0.1)
    assert verifying._largest({2: [1.1]}, {1: [9.0], 2: [1.0]}) == pytest.approx(0.1)
    assert verifying._largest({2: [float("nan")]}, {2: [1.0]}) == float("inf")
    assert verifying._largest({}, {}) == float("inf")  # nothing compared proves nothing


def test_a_row_passes_within_its_tolerance() -> None:
    row = VerifyRow(check="a", quantity="losses", difference=1e-5, tolerance=1e-5)
    assert row.passed and not row.model_copy(update={"difference": 1.1e-5}).passed
