"""An optimizer of a person's own trains as ours do: the same under every strategy that can hold it, saved and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import engine_toys as toys
import pytest
import torch
from ranks_fixture import Pools, pools
from test_engines import MAIN, STRATEGIES, assert_same

from orchestrator.checkpoint import newest_good
from orchestrator.errors import SpecError
from orchestrator.planning.fit import check_optimizers
from orchestrator.planning.memory import _moments
from orchestrator.planning.schedule import check_schedule, schedule_of
from orchestrator.spec.training import OptimizerSpec, ScheduleSpec
from orchestrator.strategies.own_optimizers import tried

__all__ = ["pools"]

STEPS = 3


def spec_of(name: str, **fields: Any) -> OptimizerSpec:
    return OptimizerSpec(kind="factory", factory=f"own_optimizers:{name}", learning_rate=0.01, **fields)


def plan_of(name: str, strategy: str, workers: int = 2, **fields: Any) -> Any:
    spec = spec_of(name, **fields)
    spec = spec.model_copy(update={"tried": tried(spec)})
    return toys.toy_plan(workers, STRATEGIES[strategy], optimizer=spec.model_dump(mode="json"))


@pytest.mark.parametrize("strategy", MAIN)
def test_one_trains_on_two_workers_like_on_one(pools: Pools, strategy: str) -> None:
    expected = toys.train(plan_of("signs", "ddp", 1, config={"decay": 0.8}))
    got = pools.run(2, toys.train, plan_of("signs", strategy, config={"decay": 0.8}))
    assert_same(got, expected, state=1e-4)  # tanh of a hundred times what rounding leaves
    assert {key[0] for key in toys.assembled(got)} == {"parameter", "buffer", "momentum"}
    other = toys.train(plan_of("signs", "ddp", 1, config={"decay": 0.5}))
    assert other.losses != expected.losses


def test_torchs_own_by_a_factory_is_ours() -> None:
    """Bit for bit: the same class in the same groups, whoever makes it."""
    ours = toys.train(toys.toy_plan(1, {"kind": "ddp"}, optimizer={"learning_rate": 0.01}))
    theirs = toys.train(plan_of("adamw", "ddp", 1))
    assert theirs.losses == ours.losses
    got, want = toys.assembled([theirs]), toys.assembled([ours])
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], tensor) for key, tensor in want.items())


@pytest.mark.parametrize("strategy", MAIN)
@pytest.mark.parametrize("name", ["signs", "adamw"])
def test_resumed_it_goes_on_as_if_never_stopped(
    pools: Pools, tmp_path: Path, name: str, strategy: str
) -> None:
    plan = plan_of(name, strategy)
    pools.run(2, toys.train_and_save, plan, "classify", STEPS, str(tmp_path))
    found = newest_good(str(tmp_path))
    assert found is not None
    resumed = pools.run(2, toys.resume, plan, "classify", found.path, STEPS, STEPS)
    straight = pools.run(2, toys.train_steps, plan, "classify", 2 * STEPS)
    got, want = toys.assembled(resumed), toys.assembled(straight)
    assert all(torch.equal(got[key], tensor) for key, tensor in want.items())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_gradient_that_is_no_number_updates_nothing(pools: Pools, strategy: str) -> None:
    answers = pools.run(2, toys.step_on_nan, plan_of("signs", strategy))
    before, after = (toys.assembled([answer[which] for answer in answers]) for which in (1, 2))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_what_it_keeps_is_found() -> None:
    found = {name: tried(spec_of(name)) for name in ("signs", "adamw", "whitened", "holding", "adagrad")}
    assert found["signs"].model_dump() == {
        "moments": ("momentum",),
        "counts": "number",
        "shards": True,
        "partitions": True,
    }
    assert found["adamw"].moments == ("exp_avg", "exp_avg_sq") and found["adamw"].counts == "tensor"
    assert [_moments(spec_of(name, tried=one)) for name, one in found.items()] == [1, 2, 1, 0, 1]
    assert {name: (one.shards, one.partitions) for name, one in found.items()} == {
        "signs": (True, True),
        "adamw": (True, True),
        "whitened": (False, False),
        "holding": (True, False),
        "adagrad": (True, True),
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "nadam",
            r"keeps 'mu_product' \(a tensor of shape \(\), float32\) for layer\.weight of shape \(6, 4\)",
        ),
        ("counting", "a run that goes on from a checkpoint would not be the same"),
        ("fixed", "moves parameters at a learning rate of 0"),
        ("nothing", "must return a torch.optim.Optimizer, not str"),
        ("half", "over exactly the parameters that it was given"),
        ("absent", "'absent' is not there in "),
    ],
)
def test_what_cant_hold_is_refused_when_it_is_planned(name: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        tried(spec_of(name))


@pytest.mark.parametrize(
    ("name", "strategy", "said"),
    [
        (
            "whitened",
            "fsdp",
            "updates a part of a parameter in another way than the whole, and strategy fsdp",
        ),
        ("whitened", "zero1", "strategy zero shards parameters; use strategy ddp"),
        ("holding", "zero2", "can't be given flat ranges of parameters in their place"),
    ],
)
def test_a_strategy_that_cant_hold_it_is_refused(name: str, strategy: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        check_optimizers(plan_of(name, strategy).job)
    check_optimizers(plan_of(name, "ddp").job)


def test_fields_of_another_kind_are_refused() -> None:
    for fields, said in (
        ({"kind": "factory"}, "belong together"),
        ({"factory": "m:f"}, "belong together"),
        ({"config": {"decay": 1}}, "config: kind adamw does not read it; it goes with kind factory"),
        ({"kind": "factory", "factory": "m:f", "momentum": 0.5}, "momentum: kind factory does not read it"),
    ):
        with pytest.raises(ValueError, match=said):
            OptimizerSpec.model_validate(fields)
    with pytest.raises(ValueError, match="warmup_steps: kind factory does not read it"):
        ScheduleSpec(kind="factory", factory="m:f", warmup_steps=3)


def schedule(name: str, **config: Any) -> ScheduleSpec:
    return ScheduleSpec(kind="factory", factory=f"own_optimizers:{name}", config=config)


def test_a_schedule_of_ones_own_is_what_the_loop_goes_by(pools: Pools) -> None:
    own = schedule("triangle", top=0.25)
    check_schedule(own, 100)
    factor_at = schedule_of(own, 100)
    assert [factor_at(step) for step in (1, 25, 100)] == [1 / 25, 1.0, 0.0]
    got = toys.train(toys.toy_plan(1, {"kind": "ddp"}, schedule=own.model_dump(mode="json")))
    ramp = {"kind": "linear", "warmup_steps": 25, "final_ratio": 0.0}
    want = toys.train(toys.toy_plan(1, {"kind": "ddp"}, schedule=ramp))
    assert got.losses == want.losses


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("falling_below", r"gave -0\.01\d+ at step 99; what the peak learning rate is multiplied with"),
        ("remembering", "gives another factor for the same step when it is asked again"),
        ("signs", "failed at step 1: TypeError"),
    ],
)
def test_what_is_no_schedule_is_refused(name: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        check_schedule(schedule(name), 100)
