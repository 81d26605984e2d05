"""The memory that ``plan`` predicts of a worker beside the count of its GPU's allocator; on a CPU that of live tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from gpu_runs import DEVICE, HAS_GPU, STRATEGIES, case, on_gpus

from orchestrator.fitting.ask import Simulator, simulator
from orchestrator.fitting.simulate import allocated
from orchestrator.models.configs import CausalLmConfig, GptConfig
from orchestrator.models.sizes import count
from orchestrator.testing import small_plan

SIZE: dict[str, Any] = {"size": "124m", "context": 1024} if HAS_GPU else {"size": "debug", "context": 32}
"""On a GPU large enough that workspaces of its libraries, which are predicted as a sum for themselves, hardly count."""
MODEL, SAMPLES = GptConfig(**SIZE, vocabulary=50_304 if HAS_GPU else 199), 4
CASES = [
    case(name, recomputation, packed, part_of_default=name == "fsdp" and packed)
    for name in STRATEGIES
    for recomputation, packed in (("none", False), ("blocks", True))
]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("peaks")) as made:
        yield made


@pytest.mark.parametrize(("strategy", "recomputation", "packed"), CASES)
def test_the_predicted_peak_is_the_devices(
    strategy: str, recomputation: str, packed: bool, asked: Simulator
) -> None:
    objective = CausalLmConfig(packed=packed)
    plan = small_plan(
        strategy=STRATEGIES[strategy],
        training={"global_batch_size": SAMPLES, "precision": "bf16", "recomputation": recomputation},
        micro_batch_size=SAMPLES,
        parameters=count(MODEL, objective).parameters,
    )
    plan = on_gpus(
        plan.model_copy(update={"job": plan.job.model_copy(update={"model": MODEL, "objective": objective})})
    )
    predicted, held = asked.peak(plan).total, allocated(plan, torch.device(DEVICE))
    assert predicted == pytest.approx(held, rel=0.1)
