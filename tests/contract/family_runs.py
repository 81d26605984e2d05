"""A few steps of a family on an engine. Everything here is importable by ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from engine_toys import Run, run_of
from family_cases import CASES, IDS, random_batch

from orchestrator import loop, strategies
from orchestrator.models import build_modules, build_objective
from orchestrator.models.base import Batch, Objective
from orchestrator.models.deferred import build_deferred
from orchestrator.planning.plan import Plan
from orchestrator.strategies.base import Engine
from orchestrator.testing import RecordingSurroundings, small_plan, steps_of

BATCH, MICRO = 8, 2


def family_plan(
    world_size: int, strategy: Mapping[str, Any], optimizer: Mapping[str, Any], **training: Any
) -> Plan:
    """Evaluates and draws samples after its third step, and stops before its end."""
    return small_plan(
        world_size,
        strategy=strategy,
        training={
            "max_steps": 100,
            "global_batch_size": BATCH,
            "optimizer": optimizer,
            "schedule": {"kind": "constant"},
            **training,
        },
        micro_batch_size=MICRO,
        parameters=100_000,
        evaluate_every=3,
        sample_every=3,
    )


class Drawing(RecordingSurroundings):
    """Draws samples where the loop asks for them."""

    def __init__(self, stop_at: int, evaluation: Batch, engine: Engine, objective: Objective) -> None:
        super().__init__(stop_at=stop_at, evaluation=[evaluation])
        self._drawn_from, self._draws = engine, objective

    def show_samples(self, step: int) -> None:
        super().show_samples(step)
        with loop.evaluating(self._drawn_from), torch.no_grad():
            self._draws.samples(self._drawn_from.modules, next(self.evaluation()), 1)


def train_family(plan: Plan, name: str, steps: int) -> Run:
    """Train a case on this rank."""
    case = CASES[IDS.index(name)]
    torch.set_num_threads(1)
    modules, values = build_deferred(lambda: build_modules(case.config, case.objective), 0)
    objective = build_objective(case.config, case.objective)
    engine = strategies.prepare(plan, modules, objective, torch.device("cpu"), values)
    specs = dict(objective.inputs())
    batches = (random_batch(case, specs, BATCH, seed=step) for step in range(steps))
    around = Drawing(steps, random_batch(case, specs, MICRO, seed=steps), engine, objective)
    loop.train(plan, engine, objective, steps_of(batches, plan), around, 0)
    run = run_of(engine, around)
    engine.close()
    return run
