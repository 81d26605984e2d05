"""Engines on one GPU: the same numbers as on the CPU in fp32, and what bf16 and fp16 give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import engine_toys as toys
import pytest
import torch

from orchestrator import loop, strategies
from orchestrator.planning.plan import Plan
from orchestrator.testing import RecordingSurroundings, steps_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "zero1": {"kind": "zero", "stage": 1},
    "zero2": {"kind": "zero", "stage": 2},
    "zero3": {"kind": "zero", "stage": 3},
}


@pytest.fixture(autouse=True)
def exact() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


def plan_on_gpu(strategy: str, **training: Any) -> Plan:
    plan = toys.toy_plan(1, STRATEGIES[strategy], **training)
    return plan.model_copy(
        update={
            "job": plan.job.model_copy(
                update={"scaling": plan.job.scaling.model_copy(update={"gpus_per_worker": 1})}
            )
        }
    )


def on_gpu(strategy: str, **training: Any) -> toys.Run:
    return toys.train(plan_on_gpu(strategy, **training), device="cuda:0")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fp32_gives_the_cpus_losses(strategy: str) -> None:
    expected = toys.train(toys.toy_plan(1, {"kind": "ddp"}))
    torch.testing.assert_close(
        torch.tensor(on_gpu(strategy).losses), torch.tensor(expected.losses), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_low_precision_learns_the_same(strategy: str, precision: str) -> None:
    expected = toys.train(toys.toy_plan(1, {"kind": "ddp"}))
    run = on_gpu(strategy, precision=precision)
    torch.testing.assert_close(torch.tensor(run.losses), torch.tensor(expected.losses), rtol=0.1, atol=0.05)
    assert run.scalars["updates/model"] >= 18  # fp16 may skip a step or two while its scale settles


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_step_between_logs_waits_for_nothing(strategy: str, precision: str) -> None:
    """The first step is logged, the second may still set things up, the third and fourth are looked at."""
    plan = plan_on_gpu(strategy, precision=precision, log_every=100)
    objective = toys.toy_objective("classify")
    engine = strategies.prepare(plan, toys.toy_modules("classify"), objective, torch.device("cuda"))

    def strict() -> Iterator[Any]:
        steps = steps_of([toys.global_batch(0)] * 5, plan, device="cuda")
        for number, step in enumerate(steps, 1):
            torch.cuda.set_sync_debug_mode("error" if number in (3, 4) else "default")
            yield step

    try:
        loop.train(plan, engine, objective, strict(), RecordingSurroundings(stop_at=5), 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        engine.close()
