"""Real Ray Train, killed at random and resumed on other numbers of workers: every sample exactly once an epoch."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_jobs import job_of, plan_of

from orchestrator import data
from orchestrator.data import Prepared
from orchestrator.planning.plan import Plan

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3000)]

ROWS, BATCH, EPOCHS, SAVE_EVERY = 600, 24, 3, 7
SCHEDULES = int(os.environ.get("SCHEDULES", "10"))


def worker(config: dict[str, Any]) -> None:
    """Takes steps from the newest checkpoint on; every rank notes its ids; one rank dies where the schedule says."""
    import signal

    import ray.train
    import torch.distributed as dist

    context = ray.train.get_context()
    rank, world_size, folder = context.get_world_rank(), context.get_world_size(), Path(config["folder"])
    plan = Plan.model_validate_json(config["plan"])
    prepared = Prepared.model_validate_json(config["prepared"])
    saved = folder / "checkpoint"
    start = int(saved.read_text()) if saved.exists() else 0
    stream = data.open_train(prepared, plan, rank=rank, world_size=world_size, start_step=start)
    log = (folder / f"attempt-{config['attempt']}-rank-{rank}").open("w")
    for step, batch in enumerate(stream, start=start):
        ids = [int(i) for micro in batch.micros for i in micro["sample_id"]]
        log.write(json.dumps([step, ids]) + "\n")
        log.flush()
        if step == config["kill_step"] and rank == config["kill_rank"] % world_size:
            os.kill(os.getpid(), signal.SIGKILL)
        dist.barrier()  # as gradients do, it keeps ranks within a step of each other
        if rank == 0 and (step + 1) % SAVE_EVERY == 0:
            draft = folder / "draft"
            draft.write_text(str(step + 1))
            draft.replace(saved)
    stream.close()


@pytest.fixture(scope="module", autouse=True)
def ray_instance():
    os.environ.update({"RAY_TRAIN_V2_ENABLED": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"})
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "600"
    fakes = str(Path(__file__).parents[2] / "fakes")
    import ray

    with tempfile.TemporaryDirectory(prefix="tw", dir="/tmp") as folder:
        ray.init(
            address="local",
            num_cpus=5,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            object_store_memory=200 * 2**20,
            _temp_dir=folder,
            runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), fakes])}},
        )
        yield ray
        ray.shutdown()


@pytest.fixture(scope="module")
def prepared_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    ids = np.arange(ROWS)
    table = pa.table({"features": ids.astype(np.float32), "label": ids % 2})
    pq.write_table(table, folder / "rows.parquet", row_group_size=20)
    job = job_of(
        {"train": {"kind": "parquet", "path": str(folder / "rows.parquet")}, "reader": "ray"}, batch=BATCH
    )
    total = EPOCHS * -(-ROWS // BATCH)
    plan = plan_of(job, folder, steps=total)
    return plan, data.prepare(plan), total


@pytest.mark.parametrize("schedule", range(SCHEDULES))
def test_no_sample_is_lost_or_repeated(prepared_data, tmp_path, schedule):
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    plan, prepared, total = prepared_data
    choose = random.Random(schedule)
    kills = sorted(choose.sample(range(3, total), 3))
    for attempt, kill_step in enumerate([*kills, -1]):
        config = {
            "plan": plan.model_dump_json(),
            "prepared": prepared.model_dump_json(),
            "folder": str(tmp_path),
            "attempt": attempt,
            "kill_step": kill_step,
            "kill_rank": choose.randrange(4),
        }
        trainer = TorchTrainer(
            worker,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=(4, 3, 2, 4)[attempt]),
            run_config=RunConfig(
                name=f"attempt-{attempt}",
                storage_path=str(tmp_path / "ray"),
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        if kill_step >= 0:
            with pytest.raises(Exception, match=r"died|by peer"):
                trainer.fit()
        else:
            trainer.fit()

    taken = steps_that_count(tmp_path, total)
    per_epoch = total // EPOCHS
    for epoch in range(EPOCHS):
        seen = Counter(
            i for step in taken[epoch * per_epoch : (epoch + 1) * per_epoch] for i in step if i >= 0
        )
        assert seen == Counter(range(ROWS))
    alone = data.open_train(
        prepared,
        plan_of(
            plan.job.model_copy(update={"data": plan.job.data.model_copy(update={"reader": "worker"})}),
            tmp_path,
            steps=total,
        ),
        rank=0,
        world_size=1,
        start_step=0,
    )
    for ours, batch in zip(taken, alone, strict=True):
        assert ours == batch.micros[0]["sample_id"].tolist()


def steps_that_count(folder: Path, total: int) -> list[list[int]]:
    """The global batch of each step in the attempt that took it last: what the final parameters are made of."""
    batches: dict[int, list[int]] = {}
    attempts = sorted({int(path.name.split("-")[1]) for path in folder.glob("attempt-*-rank-*")})
    for attempt in attempts:
        ranks = sorted(
            folder.glob(f"attempt-{attempt}-rank-*"), key=lambda path: int(path.name.rsplit("-", 1)[1])
        )
        lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in ranks]
        for rows in zip(*lines, strict=False):
            assert len({step for step, _ in rows}) == 1
            batches[rows[0][0]] = [i for _, ids in rows for i in ids]
    assert sorted(batches) == list(range(total))
    return [batches[step] for step in range(total)]
