"""A person's own model trains under every strategy as it does alone, and resumed as if it had never stopped."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import engine_toys as toys
import pytest
import torch
from ranks_fixture import Pools, pools

from orchestrator import loop, strategies
from orchestrator.checkpoint import checkpoint_at, open_reader
from orchestrator.models import build_objective, build_with_values
from orchestrator.models.configs import (
    ClassificationConfig,
    CustomConfig,
    CustomObjectiveConfig,
    InputTensor,
    ObjectiveConfig,
)
from orchestrator.planning.plan import Plan
from orchestrator.testing import RecordingSurroundings, small_plan, steps_of

__all__ = ["pools"]

BATCH, STEPS = 8, 4
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "zero1": {"kind": "zero", "stage": 1},
    "zero2": {"kind": "zero", "stage": 2},
    "zero3": {"kind": "zero", "stage": 3},
}
_FEATURES = {"features": InputTensor(shape=(5,), kind="float")}
CASES: dict[str, tuple[CustomConfig, ObjectiveConfig]] = {
    "tagger": (
        CustomConfig(factory="own_models:build_tagger", outputs=3, inputs=_FEATURES),
        ClassificationConfig(),
    ),
    "by_value": (
        CustomConfig(factory="own_models:build_by_value", outputs=3, inputs=_FEATURES, deferred=False),
        ClassificationConfig(),
    ),
    "gan": (CustomConfig(factory="own_models:build_gan"), CustomObjectiveConfig(factory="own_models:Gan")),
}


def train(plan: Plan, name: str, steps: int, folder: str | None = None, start: int = 0) -> toys.Run:
    """Train a case on this rank up to a step; saves into the folder after its second."""
    model, kind = CASES[name]
    torch.set_num_threads(1)
    modules, values = build_with_values(model, kind, 0)
    objective = build_objective(model, kind)
    engine = strategies.prepare(plan, modules, objective, torch.device("cpu"), values)
    if start:
        saved = checkpoint_at(f"{folder}/step-{start:08d}.attempt-1")
        with open_reader(saved) as reader:
            engine.load(reader, saved.meta["scalars"])
    batches = (_batch(step) for step in range(start, steps))
    with toys.checkpoints_in(None if start else folder) as checkpoints:
        saves = {"checkpoints": checkpoints, "engine": engine} if checkpoints else {}
        around = RecordingSurroundings(stop_at=steps, **saves)
        loop.train(plan, engine, objective, steps_of(batches, plan), around, start)
    run = toys.run_of(engine, around)
    engine.close()
    return run


def _batch(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "sample_seed": torch.randint(0, 2**62, (BATCH,), generator=generator),
        "features": torch.randn(BATCH, 5, generator=generator),
        "label": torch.randint(0, 3, (BATCH,), generator=generator),
    }


def _plan(world_size: int, strategy: dict[str, Any]) -> Plan:
    optimizer = {"kind": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.0}
    return small_plan(
        world_size,
        strategy=strategy,
        training={"max_steps": 100, "global_batch_size": BATCH, "optimizer": optimizer},
        micro_batch_size=2,
        parameters=1000,
        checkpoint_every=2,
    )


@lru_cache
def _alone(name: str) -> toys.Run:
    return train(_plan(1, {"kind": "ddp"}), name, STEPS)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("strategy", "ranks"), [*((one, 2) for one in STRATEGIES), ("fsdp", 1), ("zero1", 1), ("zero3", 1)]
)
def test_workers_train_a_model_of_one_s_own_like_one_and_go_on_the_same(
    pools: Pools, name: str, strategy: str, ranks: int, tmp_path: Path
) -> None:
    plan, expected = _plan(ranks, STRATEGIES[strategy]), _alone(name)
    runs = pools.run(ranks, train, plan, name, STEPS, str(tmp_path))
    torch.testing.assert_close(
        torch.tensor(runs[0].losses), torch.tensor(expected.losses), rtol=1e-4, atol=1e-5
    )
    got, want = toys.assembled(runs), toys.assembled([expected])
    assert got.keys() == want.keys()
    for key, tensor in want.items():
        torch.testing.assert_close(got[key], tensor, rtol=1e-3, atol=1e-5)
    resumed = toys.assembled(pools.run(ranks, train, plan, name, STEPS, str(tmp_path), 2))
    assert all(torch.equal(resumed[key], tensor) for key, tensor in got.items())
