"""Every engine trains like one worker does."""

from __future__ import annotations

import re
from typing import Any

import engine_toys as toys
import pytest
import torch
from ranks_fixture import Pools, pools

from orchestrator.errors import SpecError

__all__ = ["pools"]

OFFLOAD = {"optimizer": "cpu", "parameters": "none"}
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "fsdp-kept": {"kind": "fsdp", "reshard_after_forward": False},
    "zero1": {"kind": "zero", "stage": 1},
    "zero2": {"kind": "zero", "stage": 2},
    "zero3": {"kind": "zero", "stage": 3},
    "zero1-offload": {"kind": "zero", "stage": 1, "offload": OFFLOAD},
    "zero2-offload": {"kind": "zero", "stage": 2, "offload": OFFLOAD},
    "zero3-offload": {"kind": "zero", "stage": 3, "offload": {"optimizer": "cpu", "parameters": "cpu"}},
}
MAIN = ("ddp", "fsdp", "zero1", "zero2", "zero3")


@pytest.fixture(scope="module")
def alone() -> Any:
    """What one worker, without torch.distributed, makes of a toy."""
    made: dict[tuple[str, str], toys.Run] = {}

    def run(kind: str, **training: Any) -> toys.Run:
        key = (kind, repr(sorted(training.items())))
        if key not in made:
            made[key] = toys.train(toys.toy_plan(1, {"kind": "ddp"}, **training), kind)
        return made[key]

    return run


def assert_same(runs: list[toys.Run], expected: toys.Run, *, loss: float = 1e-5, state: float = 1e-5) -> None:
    assert all(run.losses == runs[0].losses for run in runs)
    torch.testing.assert_close(
        torch.tensor(runs[0].losses), torch.tensor(expected.losses), rtol=loss, atol=1e-6
    )
    torch.testing.assert_close(
        torch.tensor(runs[0].norms), torch.tensor(expected.norms), rtol=1e-4, atol=1e-6
    )
    got, want = toys.assembled(runs), toys.assembled([expected])
    assert got.keys() == want.keys()
    for key, tensor in want.items():
        if key[0] == "buffer":  # counts micro-batches of one rank
            continue
        torch.testing.assert_close(
            got[key], tensor, rtol=state, atol=state, msg=lambda m, key=key: f"{key}: {m}"
        )


@pytest.mark.parametrize("kind", ["classify", "wgan"])
@pytest.mark.parametrize("strategy", MAIN)
def test_two_workers_train_like_one(pools: Pools, alone: Any, strategy: str, kind: str) -> None:
    """20 steps with accumulation and clipping; tied to one worker's losses, norms, parameters and moments."""
    expected = alone(kind)
    assert (
        min(expected.norms) < 1.0 < max(expected.norms) or kind != "classify"
    )  # clipping is on some of the time
    plan = toys.toy_plan(2, STRATEGIES[strategy])
    assert plan.accumulation_steps == 3
    assert_same(pools.run(2, toys.train, plan, kind), expected)


@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_no_rank_holds_the_model_whole_to_begin(pools: Pools, strategy: str) -> None:
    """While parameters take memory: a share of them, and one block."""
    for most, whole, block in pools.run(2, toys.most_while_placed, toys.toy_plan(2, STRATEGIES[strategy])):
        assert block < most < whole / 2 + 2 * block < whole


@pytest.mark.parametrize("kind", ["classify", "wgan"])
@pytest.mark.parametrize(("strategy", "group"), [("fsdp", 1), ("fsdp", 2), ("zero3", 2)])
def test_groups_that_share_a_copy_train_like_one_worker(
    pools: Pools, alone: Any, strategy: str, kind: str, group: int
) -> None:
    """Four workers in groups of one or two."""
    plan = toys.toy_plan(4, {**STRATEGIES[strategy], "shard_group": group}, micro_batch_size=1)
    assert_same(pools.run(4, toys.train, plan, kind), alone(kind))


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("kind", ["classify", "gan", "wgan"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_any_number_of_workers_trains_like_one(
    pools: Pools, alone: Any, strategy: str, kind: str, world_size: int
) -> None:
    runs = pools.run(world_size, toys.train, toys.toy_plan(world_size, STRATEGIES[strategy]), kind)
    assert_same(runs, alone(kind))


@pytest.mark.parametrize("strategy", ["zero2-offload", "zero3-offload"])
def test_offload_changes_no_number(pools: Pools, alone: Any, strategy: str) -> None:
    assert_same(pools.run(2, toys.train, toys.toy_plan(2, STRATEGIES[strategy])), alone("classify"))


@pytest.mark.parametrize("strategy", MAIN)
@pytest.mark.parametrize(
    "optimizer",
    [
        {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01},
        {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.0},
        {"kind": "lion", "learning_rate": 0.001, "weight_decay": 0.1},
    ],
    ids=["momentum", "plain", "lion"],
)
def test_other_optimizers_train_like_on_one_worker(
    pools: Pools, alone: Any, strategy: str, optimizer: dict[str, Any]
) -> None:
    runs = pools.run(2, toys.train, toys.toy_plan(2, STRATEGIES[strategy], optimizer=optimizer))
    # lion takes signs: where two gradients cancel to nothing, rounding decides
    assert_same(
        runs, alone("classify", optimizer=optimizer), state=5e-3 if optimizer["kind"] == "lion" else 1e-5
    )


@pytest.mark.parametrize("strategy", ["fsdp", "zero1", "zero2", "zero3"])
def test_adafactor_is_refused_where_parameters_are_sharded(pools: Pools, strategy: str) -> None:
    plan = toys.toy_plan(2, STRATEGIES[strategy], optimizer={"kind": "adafactor"})
    with pytest.raises(SpecError, match="adafactor needs whole parameters"):
        pools.run(2, toys.train, plan)


def test_adafactor_trains_under_ddp_like_on_one_worker(pools: Pools, alone: Any) -> None:
    optimizer = {"kind": "adafactor", "learning_rate": 0.01}
    assert_same(
        pools.run(2, toys.train, toys.toy_plan(2, {"kind": "ddp"}, optimizer=optimizer)),
        alone("classify", optimizer=optimizer),
    )


@pytest.mark.parametrize("strategy", MAIN)
def test_bf16_keeps_fp32_masters(pools: Pools, alone: Any, strategy: str) -> None:
    """Updates far smaller than bf16 can add to a weight are not lost, and all strategies agree within its rounding."""
    optimizer = {"learning_rate": 1e-4, "weight_decay": 0.0}
    runs = pools.run(
        2, toys.train, toys.toy_plan(2, STRATEGIES[strategy], precision="bf16", optimizer=optimizer)
    )
    got = toys.assembled(runs)
    want = toys.assembled([alone("classify", precision="bf16", optimizer=optimizer)])
    for key, tensor in want.items():
        if key[0] == "parameter":
            assert got[key].dtype == torch.float32
            torch.testing.assert_close(got[key], tensor, rtol=0, atol=4e-4)
    weight = got["parameter", "model/head.weight"]
    assert not torch.equal(weight, weight.bfloat16().float())
    torch.testing.assert_close(
        torch.tensor(runs[0].losses),
        torch.tensor(alone("classify", optimizer=optimizer).losses),
        rtol=0.2,
        atol=0.1,
    )


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_gradients_exchanged_in_bf16_are_nearly_those_of_fp32(
    pools: Pools, alone: Any, strategy: str
) -> None:
    plan = toys.toy_plan(2, {**STRATEGIES[strategy], "reduce_dtype": "bf16"})
    runs, expected = pools.run(2, toys.train, plan), alone("classify")
    assert all(run.losses == runs[0].losses for run in runs)
    assert runs[0].norms != expected.norms
    torch.testing.assert_close(
        torch.tensor(runs[0].norms), torch.tensor(expected.norms), rtol=0.02, atol=1e-3
    )
    torch.testing.assert_close(
        torch.tensor(runs[0].losses), torch.tensor(expected.losses), rtol=0.01, atol=1e-2
    )


def test_what_is_outside_of_blocks_is_gathered_once_a_micro_batch(pools: Pools) -> None:
    plan = toys.toy_plan(2, {"kind": "fsdp"})
    assert pools.run(2, toys.gathered_after_forward, plan) == [(True, False)] * 2


@pytest.mark.parametrize("policy", ["blocks", "selective"])
@pytest.mark.parametrize("strategy", MAIN)
def test_recomputation_changes_no_number(pools: Pools, alone: Any, strategy: str, policy: str) -> None:
    plan = toys.toy_plan(2, STRATEGIES[strategy], recomputation=policy)
    assert_same(pools.run(2, toys.train, plan), alone("classify"))


@pytest.mark.parametrize("strategy", MAIN)
def test_evaluation_between_steps_changes_no_number(pools: Pools, alone: Any, strategy: str) -> None:
    expected = alone("classify")
    plan = toys.toy_plan(2, STRATEGIES[strategy]).model_copy(update={"evaluate_every": 1})
    assert_same(pools.run(2, toys.train, plan), expected)


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(SpecError, match="fp16 needs a GPU"):
        toys.train(toys.toy_plan(1, {"kind": "ddp"}, precision="fp16"))


@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2"])
def test_replicas_that_differ_are_named(pools: Pools, strategy: str) -> None:
    answers = pools.run(2, toys.refusal_of_replicas, toys.toy_plan(2, STRATEGIES[strategy]))
    said = "after step 1 the workers' copies of parameter model/layers.1.up.bias are not equal"
    assert answers == [said] * 2


def test_copies_of_a_shard_that_differ_are_named(pools: Pools) -> None:
    plan = toys.toy_plan(4, {"kind": "fsdp", "shard_group": 2}, micro_batch_size=1)
    said = "after step 1 the workers' copies of parameter model/layers.1.up.bias are not equal"
    assert pools.run(4, toys.refusal_of_replicas, plan) == [said] * 4


def test_the_backward_gathers_from_the_second_copy(pools: Pools) -> None:
    plan = toys.toy_plan(4, {"kind": "zero", "stage": 3, "shard_group": 2}, micro_batch_size=1)
    sizes = pools.run(4, toys.second_copies, plan)
    assert all(size == whole / 2 for size, whole in sizes)


@pytest.mark.parametrize("strategy", MAIN)
def test_a_gradient_that_is_no_number_updates_nothing(pools: Pools, strategy: str) -> None:
    answers = pools.run(2, toys.step_on_nan, toys.toy_plan(2, STRATEGIES[strategy]))
    for said, _, run in answers:
        assert re.match(
            r"step 1: the gradient of model is (nan|inf), so the loss is no longer a number", said
        )
        assert run.scalars["updates/model"] == 0
    before, after = (toys.assembled([answer[which] for answer in answers]) for which in (1, 2))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["none", "blocks", "selective"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1", "zero2", "zero3"])
def test_compilation_changes_no_number(pools: Pools, alone: Any, strategy: str, policy: str) -> None:
    plan = toys.toy_plan(2, STRATEGIES[strategy], compile=True, recomputation=policy)
    assert_same(pools.run(2, toys.train, plan), alone("classify"))
