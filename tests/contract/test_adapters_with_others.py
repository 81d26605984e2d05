"""Adapters together with all else that a job may ask for, each through the real loop on two workers and against a plain loop."""

from __future__ import annotations

from typing import Any

import engine_toys as toys
import own_optimizers
import pytest
import torch
from ranks_fixture import Pools, pools
from test_adapters import (
    CAUSAL,
    RATE,
    STRATEGIES,
    config_of,
    differences,
    plain_with,
    plan_for,
    train,
    written,
)

from orchestrator.fitting.simulate import simulate
from orchestrator.planning.fit import check_fit
from orchestrator.planning.plan import Plan
from orchestrator.spec.training import OptimizerSpec
from orchestrator.strategies.own_optimizers import tried

__all__ = ["pools"]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

NAME = "llama"
OFFLOADED: dict[str, dict[str, Any]] = {
    "zero2": {"kind": "zero", "stage": 2, "offload": {"optimizer": "cpu"}},
    "zero3": {"kind": "zero", "stage": 3, "offload": {"optimizer": "cpu", "parameters": "cpu"}},
}


def plan_with(strategy: dict[str, Any], **training: Any) -> Plan:
    plan = plan_for(2, strategy, NAME, written(NAME))
    changed = plan.job.training.model_copy(update=training)
    plan = plan.model_copy(update={"job": plan.job.model_copy(update={"training": changed})})
    check_fit(plan.job)
    return plan


def trained(pools: Pools, plan: Plan) -> list[toys.Run]:
    runs: list[toys.Run] = pools.run(2, train, plan, NAME, written(NAME))
    return runs


@pytest.mark.parametrize("policy", ["blocks", "selective"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero3"])
def test_recomputed_blocks_change_nothing(pools: Pools, strategy: str, policy: str) -> None:
    runs = trained(pools, plan_with(STRATEGIES[strategy], recomputation=policy))
    assert max(differences(runs, NAME)) <= 1e-5


def test_blocks_are_recomputed_though_adapters_are_in_them() -> None:
    peaks = []
    for policy in ("none", "blocks"):
        plan = plan_with(STRATEGIES["fsdp"], recomputation=policy)
        made = {"model": config_of(NAME, written(NAME)), "objective": CAUSAL}
        peaks.append(simulate(plan.model_copy(update={"job": plan.job.model_copy(update=made)})))
    assert peaks[1].total < peaks[0].total


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_compiled_blocks_change_nothing(pools: Pools, strategy: str) -> None:
    runs = trained(pools, plan_with(STRATEGIES[strategy], compile=True))
    assert max(differences(runs, NAME)) <= 1e-5


@pytest.mark.parametrize("strategy", OFFLOADED)
def test_offloaded_moments_change_nothing(pools: Pools, strategy: str) -> None:
    runs = trained(pools, plan_with(OFFLOADED[strategy]))
    assert max(differences(runs, NAME)) <= 1e-5


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1", "zero3"])
def test_bf16_is_near_fp32_and_learns(pools: Pools, strategy: str) -> None:
    runs = trained(pools, plan_with(STRATEGIES[strategy], precision="bf16"))
    of_losses, of_adapters = differences(runs, NAME)
    assert of_losses <= 0.02 and of_adapters <= 0.02
    kinds = {kind: tensor.dtype for (kind, _), tensor in toys.assembled(runs).items()}
    assert set(kinds.values()) == {torch.float32}, "masters and moments stay in fp32"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero1"])
def test_an_own_optimizer_trains_them_as_in_a_plain_loop(pools: Pools, strategy: str) -> None:
    spec = OptimizerSpec(
        kind="factory",
        factory="own_optimizers:signs",
        learning_rate=RATE / 20,
        weight_decay=0.0,
        config={"decay": 0.8},
    )
    spec = spec.model_copy(update={"tried": tried(spec)})
    runs = trained(pools, plan_with(STRATEGIES[strategy], optimizer=spec))
    expected, _ = plain_with(
        NAME, lambda ps: own_optimizers.signs([{"params": ps, "lr": RATE / 20, "weight_decay": 0.0}], 0.8)
    )
    assert runs[0].losses == pytest.approx(expected, abs=2e-4)  # tanh of a hundred times what rounding leaves
    assert expected[0] - expected[-1] != 0
