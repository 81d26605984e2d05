"""A run that went back and left a batch out is, bit for bit, one that had it left out from the start."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks_fixture import Pools, pools

from orchestrator import checkpoint, data, events, sdk, worker
from orchestrator.checkpoint import CheckpointReader
from orchestrator.errors import SpecError, UserCodeError
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord

__all__ = ["pools"]

ROWS, BATCH, STEPS = 64, 8, 20
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "zero3": {"kind": "zero", "stage": 3},
}


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A job whose data has one row that no line goes through."""
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    rows = [f"{i % 7},{i % 5},{1e4 if i == 40 else i % 7}\n" for i in range(ROWS)]
    (tmp_path / "rows.csv").write_text("a,b,label\n" + "".join(rows))

    def made(
        name: str, spike: Any, strategy: str = "ddp", workers: int = 1, lora: bool = False, **recovery: Any
    ) -> Plan:
        job = {
            "name": "spiky",
            "model": {"family": "mlp", "size": "debug"},
            "objective": {"kind": "regression"},
            "data": {
                "train": {"kind": "csv", "path": "rows.csv"},
                "columns": {"features": ["a", "b"]},
                "reader": "worker",
            },
            "training": {
                "max_steps": STEPS,
                "global_batch_size": BATCH,
                "log_every": 3,
                "ema": {},
                "optimizer": {"kind": "sgd", "learning_rate": 1e-3},
                "schedule": {"kind": "constant"},
            },
            "strategy": STRATEGIES[strategy],
            "scaling": {"workers": workers},
            "recovery": {**({"on_spike": {"factor": 50, "window": 3, **spike}} if spike else {}), **recovery},
            "checkpoint": {"every_steps": 4, "keep": {"last": 9}},
            "tracking": {"kind": "none"},
            "initialize": {"lora": {"rank": 2, "targets": ["*linear", "head"]}} if lora else {},
        }
        (tmp_path / "job.json").write_text(json.dumps(job))
        plan = sdk.make_plan(tmp_path / "job.json")
        return plan.model_copy(update={"storage": str(tmp_path / name)})

    return made


def train(plan_json: str, prepared_json: str, launch: int = 1) -> dict[str, Any]:
    order = {"plan": plan_json, "prepared": prepared_json, "launch": launch, "started_at": time.time()}
    return worker.run(order)


def trained(plan: Plan, launch: int = 1) -> dict[str, Any]:
    return train(plan.model_dump_json(), data.prepare(plan).model_dump_json(), launch)


def state_of(plan: Plan, step: int = STEPS) -> dict[tuple[str, str], torch.Tensor]:
    found = checkpoint.chosen(f"{plan.storage}/checkpoints", str(step))
    with CheckpointReader(found) as reader:
        return {
            key: reader.read(*key, 0, torch.Size(shape).numel())
            for key, (shape, _) in reader.tensors().items()
        }


def same(one: Plan, other: Plan) -> bool:
    mine, theirs = state_of(one), state_of(other)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ("strategy", "lora"),
    [("ddp", False), ("fsdp", False), ("zero3", False), ("ddp", True), ("fsdp", True), ("zero3", True)],
)
def test_going_back_is_leaving_it_out_from_the_start(
    planned: Any, pools: Pools, strategy: str, lora: bool
) -> None:
    rewind = planned("rewind", {"action": "rewind"}, strategy, 2, lora)
    prepared = data.prepare(rewind).model_dump_json()
    ended = pools.run(2, train, rewind.model_dump_json(), prepared)
    left_out = RunRecord(rewind.storage).left_out()
    assert len(left_out) >= 2 and ended[0]["step"] == STEPS
    assert ended[0]["attempt"] == 1 + len(left_out)
    assert ended[0]["metrics"]["train/left_out"] == len(left_out)
    assert ended[0]["metrics"]["train/loss"] < 100
    start = planned("start", {"action": "rewind"}, strategy, 2, lora, leave_out=left_out)
    pools.run(2, train, start.model_dump_json(), prepared)
    assert RunRecord(start.storage).left_out() == ()
    assert same(rewind, start)
    newest = checkpoint.chosen(f"{rewind.storage}/checkpoints")
    other = checkpoint.chosen(f"{start.storage}/checkpoints")
    assert newest.meta["left_out"] == other.meta["left_out"] == sorted(left_out)
    assert newest.meta["spikes"] == other.meta["spikes"]


def test_it_is_told_and_a_batch_counts_in_no_update(planned: Any, capfd: Any) -> None:
    rewind = planned("rewind", {"action": "rewind"})
    trained(rewind)
    left_out = RunRecord(rewind.storage).left_out()
    output = capfd.readouterr().out.splitlines()
    told = [event for line in output if (event := events.parse(line)) and event["event"] == "spike"]
    assert [event["step"] for event in told] == list(left_out)
    assert told[0]["message"].startswith(f"step {left_out[0]}: the loss of model is ")
    newest = checkpoint.chosen(f"{rewind.storage}/checkpoints")
    assert newest.meta["scalars"]["updates/model"] == STEPS - len(left_out)


def test_an_update_is_left_out_where_it_is(planned: Any) -> None:
    """The steps before it are those of any run; with it no update is made; a killed run finds the same."""
    skip = planned("skip", {"action": "skip_batch"})
    trained(skip)
    newest = checkpoint.chosen(f"{skip.storage}/checkpoints")
    assert newest.meta["spikes"]["left_out"] >= 2
    assert newest.meta["scalars"]["updates/model"] == STEPS - newest.meta["spikes"]["left_out"]
    rewind = planned("rewind", {"action": "rewind"})
    trained(rewind)
    assert same(skip, rewind)  # this model has nothing that a forward changes
    again = skip.model_copy(update={"resume_from": "4"})
    trained(again, launch=2)
    assert checkpoint.chosen(f"{skip.storage}/checkpoints").meta["spikes"] == newest.meta["spikes"]
    assert same(again, rewind)


def test_a_run_that_ended_goes_on_without_it(planned: Any) -> None:
    fail = planned("fail", {"action": "fail"})
    with pytest.raises(UserCodeError, match=r"resume with --set recovery\.leave_out=\[(\d+)\]") as ended:
        trained(fail)
    step = int(str(ended.value).partition("leave_out=[")[2].partition("]")[0])
    assert all(found.step < step for found in checkpoint.committed(f"{fail.storage}/checkpoints"))
    without = planned("fail", {"action": "skip_batch"}, leave_out=(step,))
    trained(without, launch=2)
    with pytest.raises(
        SpecError,
        match=f"step {step} lies before the checkpoint of step {STEPS}, which was trained without it",
    ):
        trained(planned("fail", {"action": "skip_batch"}), launch=3)
    with pytest.raises(SpecError, match=r"step 1 lies before .* which was trained with it"):
        trained(planned("fail", {"action": "skip_batch"}, leave_out=(1, step)), launch=4)


def test_too_many_end_it(planned: Any) -> None:
    for action in ("skip_batch", "rewind"):
        with pytest.raises(UserCodeError, match=r"more than recovery\.on_spike\.most \(1\) batches"):
            trained(planned(action, {"action": action, "most": 1}))


def test_what_deepspeed_cant_leave_out_is_refused(planned: Any) -> None:
    with pytest.raises(SpecError, match="skip_batch needs strategy ddp or fsdp"):
        planned("zero", {"action": "skip_batch"}, "zero3")
