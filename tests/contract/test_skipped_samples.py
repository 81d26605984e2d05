"""The limit of bad samples is the job's: ranks add up what each of them left out."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from data_jobs import job_of, plan_of
from ranks_fixture import Pools, pools
from torch import Tensor, nn

from orchestrator import data, loop
from orchestrator.control import Peers
from orchestrator.data import Prepared
from orchestrator.errors import DataError
from orchestrator.models.base import Batch, Sums
from orchestrator.models.objectives.common import OnePhase
from orchestrator.planning.plan import Plan
from orchestrator.surroundings import skipped_by_all
from orchestrator.testing import RecordingEngine, RecordingSurroundings

__all__ = ["pools"]

BAD = {0, 4, 8, 12, 16, 20}


class Nothing(OnePhase):
    """Learns nothing: what is read is the point."""

    units_per_sample = 1

    def units(self, phase: str, batch: Batch) -> Tensor:
        return torch.tensor(1)

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        return Sums(torch.tensor(0.0), torch.tensor(1), {})


class AddingUp(RecordingSurroundings):
    """Asks at each save, as a worker does, what all ranks left out."""

    def __init__(self, stream: data.TrainStream, peers: Peers) -> None:
        super().__init__()
        self._stream, self._peers = stream, peers
        self.own: list[int] = []
        """What this rank left out."""

    def save(self, step: int, metrics: dict[str, float]) -> None:
        self.own = self._stream.skipped
        skipped_by_all(self._stream, self._peers)


def take_an_epoch(plan_json: str, prepared_json: str) -> tuple[list[int], list[int], str]:
    """What this rank left out, what it then knows of, and what adding up raised."""
    plan, prepared = Plan.model_validate_json(plan_json), Prepared.model_validate_json(prepared_json)
    peers = Peers()
    stream = data.open_train(prepared, plan, rank=peers.rank, world_size=peers.world_size, start_step=0)
    around, raised = AddingUp(stream, peers), ""
    with contextlib.closing(stream):
        try:
            loop.train(plan, RecordingEngine(), Nothing(), stream, around, 0)
        except DataError as error:
            raised = str(error)
        return around.own, stream.skipped, raised


def test_ranks_add_up_the_samples_that_each_left_out(pools: Pools, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    labels = pa.array([None if row in BAD else row % 3 for row in range(24)], pa.int64())
    pq.write_table(pa.table({"a": [float(row) for row in range(24)], "label": labels}), path)
    source = {"train": {"kind": "parquet", "path": str(path)}, "columns": {"features": "a"}}

    def answers(most: int) -> list[tuple[list[int], list[int], str]]:
        plan = plan_of(job_of({**source, "skip_bad_samples": most}, batch=24), tmp_path, workers=2, steps=1)
        found = pools.run(2, take_an_epoch, plan.model_dump_json(), data.prepare(plan).model_dump_json())
        (own_0, _, _), (own_1, _, _) = found
        assert own_0 and own_1 and sorted(own_0 + own_1) == sorted(BAD), (
            "each rank has bad samples of its own"
        )
        return found

    assert [(known, raised) for _, known, raised in answers(len(BAD))] == [(sorted(BAD), "")] * 2
    for _, _, raised in answers(len(BAD) - 1):
        assert f"more than data.skip_bad_samples ({len(BAD) - 1}) samples" in raised
