"""Whole runs through the real driver, Ray Train and the real loop, on nodes that die: SIGKILL to a worker, to a node
with what runs on it, and to the driver, in a random order at random steps, on 4 workers or on 4, 3, 2 and 4.

Each schedule has one kill of each kind. Where the number of workers changes, each kill ends its launch and the next
launch has the next number; where it stays, dead workers and nodes are replaced within the launch.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ray_nodes import RayNodes, end_node

from orchestrator import checkpoint, sdk
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord
from orchestrator.runs import RunState
from orchestrator.spec.job import JobSpec

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

ROWS, BATCH, EPOCHS, SAVE_EVERY = 600, 24, 3, 7
STEPS = EPOCHS * ROWS // BATCH
SCHEDULES = int(os.environ.get("ELASTIC_SCHEDULES", "10"))
CHANGING, STAYING = (4, 3, 2, 4), (4, 4, 4, 4)


class Pool:
    """A head that works on nothing, and two nodes that a schedule may kill."""

    def __init__(self) -> None:
        self.nodes = RayNodes()
        self._started = 0
        self._working: dict[str, subprocess.Popen[bytes]] = {}
        # By default Ray takes half a minute to notice that a node is gone.
        quick = {"health_check_period_ms": 500, "health_check_timeout_ms": 5000}
        self.nodes.start_head("--num-cpus=0", f"--system-config={json.dumps(quick)}")

    def repair(self) -> None:
        """Two working nodes, new ones in place of those that were killed."""
        for name in [name for name in self._working if not self._has_raylet(name)]:
            end_node(self._working.pop(name))
        while len(self._working) < 2:
            self._started += 1
            name = f"node-{self._started}"
            self._working[name] = self.nodes.start_node(name, "--num-cpus=4")

    def _has_raylet(self, name: str) -> bool:
        folder = f"{self.nodes.folder}/{name}/".encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_bytes().split(b"\0")
                if words[0].endswith(b"/raylet") and any(folder in word for word in words):
                    return True
        return False

    def drive(self, plan: Plan, launch: int) -> int:
        """One launch, from its driver's start to its end."""
        self.repair()
        path = Path(plan.storage) / f"plan-{launch}.json"
        path.write_text(plan.model_dump_json())
        command = [sys.executable, "-m", "recording", "--plan", str(path), "--launch", str(launch)]
        network = self.nodes.network
        with (Path(plan.storage) / f"driver-{launch}.log").open("w") as log:
            return subprocess.run(
                network.command("head", command) if network else command,
                env={
                    **self.nodes.environment(),
                    "RAY_ADDRESS": f"{self.nodes.head}:{self.nodes.gcs_port}",
                    # without a network of its own, or Ray takes 127.0.0.1 for the outer address
                    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": str(int(network is not None)),
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=400,
                check=False,
            ).returncode


@pytest.fixture(scope="module")
def pool():
    with pytest.MonkeyPatch.context() as patch:
        # Ray's workers import what the driver names from here
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(ROOT)]))
        made = Pool()
        try:
            yield made
        finally:
            made.nodes.close()


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    values = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
    columns = {f"x{i}": values[:, i] for i in range(4)}
    label = (values.sum(axis=1) > 0).astype(np.int64)
    pq.write_table(pa.table({**columns, "label": label}), folder / "rows.parquet", row_group_size=20)
    return folder / "rows.parquet"


def plan_for(rows: Path, folder: Path, run_id: str, *, workers: int, reader: str, retries: int) -> Plan:
    job = JobSpec.model_validate(
        {
            "name": "elastic",
            "model": {"family": "mlp", "size": "debug"},
            "data": {
                "train": {"kind": "parquet", "path": str(rows)},
                "columns": {"features": "*"},
                "reader": reader,
            },
            "training": {"max_steps": STEPS, "global_batch_size": BATCH, "log_every": 1},
            "scaling": {"workers": workers, "placement": "spread"},
            "checkpoint": {"every_steps": SAVE_EVERY},
            "recovery": {"max_failures": retries},
            "tracking": {"kind": "none"},
        }
    )
    plan = sdk.make_plan(job, base_dir=folder, run_id=run_id)
    storage = folder / run_id
    storage.mkdir(exist_ok=True)
    return plan.model_copy(update={"storage": str(storage), "cache": str(folder / "cache")})


@pytest.fixture(scope="module")
def uninterrupted(pool, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    plan = plan_for(rows, folder, "calm", workers=4, reader="worker", retries=0)
    (folder / "calm" / "kills.json").write_text("[]")
    code = pool.drive(plan, 1)
    assert code == 0, (folder / "calm" / "driver-1.log").read_text()[-3000:]
    return taken(Path(plan.storage)), final_state(plan.storage)


@pytest.mark.parametrize("schedule", range(SCHEDULES))
def test_each_sample_counts_once_and_the_curve_is_the_same(pool, rows, uninterrupted, tmp_path, schedule):
    choose = random.Random(schedule)
    changes = schedule % 2 == 0
    victims = choose.sample(["worker", "node", "driver"], 3)
    steps = sorted(choose.sample(range(3, STEPS), 3))
    kills = [
        {"step": step, "victim": victim, "rank": choose.randrange(12)}
        for step, victim in zip(steps, victims, strict=True)
    ]
    storage = tmp_path / "run"
    storage.mkdir()
    (storage / "kills.json").write_text(json.dumps(kills))
    began, state, launch = time.monotonic(), None, 0
    while state is not RunState.SUCCEEDED:
        workers = (CHANGING if changes else STAYING)[launch]
        reader = ("ray", "worker")[schedule // 2 % 2]
        launch += 1
        plan = plan_for(rows, tmp_path, "run", workers=workers, reader=reader, retries=0 if changes else 3)
        pool.drive(plan, launch)
        status = RunRecord(plan.storage).status(launch)
        assert status is not None
        state = status.state
        log = (storage / f"driver-{launch}.log").read_text()
        # A launch ends well, or by a kill of the schedule: nothing else.
        assert len(list((storage / "recorded").glob("attempt-*-rank-0"))) >= launch, log[-3000:]
    assert launch == (4 if changes else 2)
    attempts = len(list((storage / "recorded").glob("attempt-*-rank-0")))
    assert attempts == 4, log[-3000:]
    found = taken(storage)
    print(f"schedule {schedule}: {kills}, {launch} launches, {time.monotonic() - began:.0f} s")

    ids, losses = found
    for epoch in range(EPOCHS):
        per_epoch = STEPS // EPOCHS
        seen = Counter(i for step in ids[epoch * per_epoch : (epoch + 1) * per_epoch] for i in step)
        assert seen == Counter(range(ROWS))
    calm_ids, calm_losses = uninterrupted[0]
    assert ids == calm_ids
    state_now, calm_state = final_state(plan.storage), uninterrupted[1]
    assert state_now.keys() == calm_state.keys()
    if changes:
        assert [float.fromhex(x) for x in losses] == pytest.approx(
            [float.fromhex(x) for x in calm_losses], rel=1e-4, abs=1e-6
        )
        for name, tensor in state_now.items():
            torch.testing.assert_close(tensor, calm_state[name], rtol=1e-4, atol=1e-6, msg=str(name))
    else:
        assert losses == calm_losses
        for name, tensor in state_now.items():
            assert torch.equal(tensor, calm_state[name]), name


def taken(storage: Path) -> tuple[list[list[int]], list[str]]:
    """Of the attempt that took it last, each step's global batch and its loss: what the final state is made of."""
    ids: dict[int, list[int]] = {}
    losses: dict[int, str] = {}
    count = len(list((storage / "recorded").glob("attempt-*-rank-0")))
    for attempt in range(count):
        files = sorted(
            (storage / "recorded").glob(f"attempt-{attempt}-rank-*"),
            key=lambda path: int(path.name.rsplit("-", 1)[1]),
        )
        lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in files]
        for steps in zip(*[[one for one in rank if one[0] == "step"] for rank in lines], strict=False):
            assert len({step for _, step, _ in steps}) == 1
            ids[steps[0][1]] = [i for _, _, share in steps for i in share]
        losses |= {step: loss for what, step, loss in lines[0] if what == "loss"}
    assert sorted(ids) == sorted(losses) == list(range(1, STEPS + 1))
    return [ids[step] for step in sorted(ids)], [losses[step] for step in sorted(losses)]


def final_state(storage: str) -> dict[tuple[str, str], torch.Tensor]:
    """Every tensor of the newest checkpoint."""
    newest = checkpoint.newest_good(f"{storage}/checkpoints")
    assert newest is not None and newest.step == STEPS
    with checkpoint.open_reader(newest) as reader:
        return {
            key: reader.read(*key, 0, int(np.prod(shape, dtype=np.int64)))
            for key, (shape, _) in reader.tensors().items()
        }
