"""The limit of bad samples is the job's: ranks add up what each of them left out."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from data_jobs import job_of, plan_of
from ranks_fixture import Pools, pools

from orchestrator import data
from orchestrator.control import Peers
from orchestrator.data import Prepared
from orchestrator.errors import DataError
from orchestrator.planning.plan import Plan
from orchestrator.worker import skipped_by_all

__all__ = ["pools"]

BAD = {0, 4, 8, 12, 16, 20}


def take_an_epoch(plan_json: str, prepared_json: str) -> tuple[list[int], list[int], str]:
    """What this rank left out, what it then knows of, and what adding up raised."""
    plan, prepared = Plan.model_validate_json(plan_json), Prepared.model_validate_json(prepared_json)
    peers = Peers()
    stream = data.open_train(prepared, plan, rank=peers.rank, world_size=peers.world_size, start_step=0)
    with contextlib.closing(stream):
        next(stream)
        own, raised = stream.skipped, ""
        try:
            skipped_by_all(stream, peers)
        except DataError as error:
            raised = str(error)
        return own, stream.skipped, raised


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
