"""Every family, strategy and precision through the loop: accumulation, samples, evaluation, a save, and again from it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_toys import Run
from family_cases import IDS
from family_runs import train_family
from gpu_runs import DEVICE, HAS_GPU, PRECISIONS, STRATEGIES, case, planned

from orchestrator.strategies.ranks import Ranks

pytestmark = pytest.mark.filterwarnings(
    "ignore:FSDP2-wrapped module",
    "ignore:LSTM with projections",
)

STEPS, SAVED = 4, 2
SLICE = {("gpt-llama", "ddp", "bf16"), ("lstm-lm", "fsdp", "bf16")}
CASES = [
    case(name, strategy, precision, part_of_default=(name, strategy, precision) in SLICE)
    for name in IDS
    for strategy in STRATEGIES
    for precision in PRECISIONS
]
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "compiled": ("ddp", {}, {"compile": True}),
    "sharded and compiled": ("fsdp", {}, {"compile": True}),
    "recomputed": ("fsdp", {}, {"recomputation": "blocks"}),
    "products kept": ("ddp", {}, {"recomputation": "selective"}),
    "shards on the host": ("fsdp", {"offload": True}, {}),
    "moments on the host": ("zero2", {"offload": {"optimizer": "cpu"}}, {}),
    "all on the host": ("zero3", {"offload": {"optimizer": "cpu", "parameters": "cpu"}}, {}),
    "reduced in bf16": ("fsdp", {"reduce_dtype": "bf16"}, {}),
    "not in tf32": ("ddp", {}, {"tf32": False}),
}


@pytest.fixture
def two_ranks() -> Iterator[Ranks]:
    if not HAS_GPU:
        os.environ["DS_ACCELERATOR"] = "cpu"  # for the import that all processes share
    backend = "cpu:gloo,cuda:nccl" if HAS_GPU else "gloo"
    with Ranks(2, timeout_seconds=240, preload=["deepspeed"], backend=backend) as ranks:
        yield ranks


@pytest.fixture(autouse=True)
def as_it_was() -> Any:
    """What a plan sets for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


def held_to_a_resume(before: Run, after: Run) -> None:
    """What comes after a save is the same to the bit, from the save on as without a break."""
    assert all(map(math.isfinite, before.losses))
    assert after.losses == before.losses[-len(after.losses) :]
    for one, other in zip(before.ranges, after.ranges, strict=True):
        assert one[:4] == other[:4] and torch.equal(one[4], other[4]), one[:2]


@pytest.mark.parametrize(("name", "strategy", "precision"), CASES)
def test_a_run_is_the_same_from_a_save_on(tmp_path: Path, name: str, strategy: str, precision: str) -> None:
    plan = planned(strategy, precision=precision, deterministic=True)
    whole = train_family(plan, name, STEPS, str(tmp_path), device=DEVICE)
    held_to_a_resume(whole, train_family(plan, name, STEPS, str(tmp_path), SAVED, DEVICE))


@pytest.mark.parametrize("name", ["gpt", "gpt-llama", "cnn-images"])
@pytest.mark.parametrize("variant", [case(v, part_of_default=v == "reduced in bf16") for v in VARIANTS])
def test_ways_to_compute_learn_alike(name: str, variant: str) -> None:
    strategy, more, training = VARIANTS[variant]
    plain = train_family(planned(strategy, precision="bf16"), name, STEPS, device=DEVICE)
    other = train_family(
        planned(strategy, more=more, precision="bf16", **training), name, STEPS, device=DEVICE
    )
    torch.testing.assert_close(torch.tensor(other.losses), torch.tensor(plain.losses), rtol=0.05, atol=0.05)


@pytest.mark.skipif(HAS_GPU and torch.cuda.device_count() < 2, reason="there is one GPU here")
@pytest.mark.parametrize("strategy", [case(one, part_of_default=one == "ddp") for one in STRATEGIES])
def test_two_devices_learn_as_one_does(two_ranks: Ranks, strategy: str) -> None:
    """By gloo between CPUs; two GPUs talk by NCCL."""
    one = train_family(planned("ddp"), "gpt", STEPS, device=DEVICE)
    two = two_ranks.run(train_family, planned(strategy, 2), "gpt", STEPS, None, 0, DEVICE)
    assert two[0].losses == two[1].losses
    torch.testing.assert_close(torch.tensor(two[0].losses), torch.tensor(one.losses), rtol=1e-3, atol=1e-3)
