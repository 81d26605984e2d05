"""Engines on one GPU: the same numbers as on the CPU in fp32, and what bf16 and fp16 give."""

from __future__ import annotations

from typing import Any

import engine_toys as toys
import pytest
import torch

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


def on_gpu(strategy: str, **training: Any) -> toys.Run:
    plan = toys.toy_plan(1, STRATEGIES[strategy], **training)
    plan = plan.model_copy(
        update={
            "job": plan.job.model_copy(
                update={"scaling": plan.job.scaling.model_copy(update={"gpus_per_worker": 1})}
            )
        }
    )
    return toys.train(plan, device="cuda")


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
