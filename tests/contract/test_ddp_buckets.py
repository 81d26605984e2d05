"""The same gradient has the same bits in a process's first backward as in later ones, on more than two workers too."""

from __future__ import annotations

import itertools

import pytest
import torch
from engine_toys import Classify, global_batch, toy_modules, toy_plan
from ranks_fixture import Pools, pools
from torch import Tensor

from orchestrator import loop, strategies
from orchestrator.strategies.base import Engine
from orchestrator.testing import RecordingSurroundings, steps_of

__all__ = ["pools"]

pytestmark = pytest.mark.slow

STEPS, WORKERS = 3, 4


class Gradients(RecordingSurroundings):
    """Keeps the gradients that an update is about to use."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(stop_at=STEPS)
        self._parameters = list(engine.modules["model"].parameters())
        self.seen: list[Tensor] = []

    def before_update(self) -> None:
        super().before_update()
        self.seen.append(torch.cat([p.grad.flatten() for p in self._parameters if p.grad is not None]))


def gradients_of_one_batch() -> list[Tensor]:
    """Those of each step, where steps are too small to change a bit of what is computed."""
    optimizer = {"kind": "sgd", "learning_rate": 1e-30, "momentum": 0.0, "weight_decay": 0.0}
    plan = toy_plan(WORKERS, {"kind": "ddp"}, optimizer=optimizer)
    objective = Classify()
    engine = strategies.prepare(plan, toy_modules("classify"), objective, torch.device("cpu"))
    around = Gradients(engine)
    loop.train(plan, engine, objective, steps_of(itertools.repeat(global_batch(0)), plan), around, 0)
    engine.close()
    return around.seen


def test_the_first_backward_adds_up_as_later_ones_do(pools: Pools) -> None:
    for first, *later in pools.run(WORKERS, gradients_of_one_batch):
        assert first.abs().sum() > 0 and len(later) == STEPS - 1
        assert all(torch.equal(first, gradients) for gradients in later)
