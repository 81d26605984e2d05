"""A few steps of a family on an engine. Everything here is importable by ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from engine_toys import Run, checkpoints_in, run_of
from family_cases import CASES, IDS, random_batch

from orchestrator import loop, strategies
from orchestrator.checkpoint import Checkpoints, checkpoint_at, open_reader
from orchestrator.models import build_modules, build_objective
from orchestrator.models.base import Batch, Objective
from orchestrator.models.deferred import build_deferred
from orchestrator.planning.plan import Plan
from orchestrator.rank import Rank
from orchestrator.strategies.base import Engine
from orchestrator.strategies.device import set_up
from orchestrator.testing import RecordingSurroundings, small_plan, steps_of

BATCH, MICRO = 8, 2


def family_plan(
    world_size: int, strategy: Mapping[str, Any], optimizer: Mapping[str, Any], **training: Any
) -> Plan:
    """Saves after its second step, evaluates and draws samples after its third, and stops before its end."""
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
        checkpoint_every=2,
    )


class Drawing(RecordingSurroundings):
    """Draws samples where the loop asks for them."""

    def __init__(
        self,
        stop_at: int,
        evaluation: Batch,
        engine: Engine,
        objective: Objective,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        saves = {"checkpoints": checkpoints, "engine": engine} if checkpoints else {}
        super().__init__(stop_at=stop_at, evaluation=[evaluation], **saves)
        self._drawn_from, self._draws = engine, objective

    def show_samples(self, step: int) -> None:
        super().show_samples(step)
        with loop.evaluating(self._drawn_from), torch.no_grad():
            self._draws.samples(self._drawn_from.modules, next(self.evaluation()), 1)


def train_family(
    plan: Plan, name: str, steps: int, folder: str | None = None, start: int = 0, device: str = "cpu"
) -> Run:
    """Train a case on this rank, up to a step.

    Args:
        folder: where checkpoints go, and where the one of ``start`` is.
        start: the step to go on from.
        device: ``cuda``: the GPU of this rank's number.
    """
    case = CASES[IDS.index(name)]
    torch.set_num_threads(1)
    where = own_device(device)
    set_up(plan.job.training, where)
    modules, values = build_deferred(lambda: build_modules(case.config, case.objective), 0)
    objective = build_objective(case.config, case.objective)
    engine = strategies.prepare(plan, modules, objective, where, values)
    rank = Rank(plan, objective, engine)
    specs = dict(objective.inputs())
    if start:
        saved = checkpoint_at(f"{folder}/step-{start:08d}.attempt-1")
        with open_reader(saved) as reader:
            engine.load(reader, saved.meta["scalars"])
    batches = (random_batch(case, specs, BATCH, seed=step) for step in range(start, steps))
    evaluation = random_batch(case, specs, MICRO, seed=steps)
    with checkpoints_in(None if start else folder) as checkpoints:
        around = Drawing(steps, rank.to_device(as_read(rank, evaluation)), engine, objective, checkpoints)
        shares = steps_of(batches, plan)
        read = (replace(share, micros=[as_read(rank, micro) for micro in share.micros]) for share in shares)
        given = rank.on_device(read)
        outcome = loop.train(plan, engine, objective, given, around, start)
    assert around.steps("show_samples")[:1] == [3] and any(
        name.startswith("val/") for name in outcome.metrics
    )
    run = run_of(engine, around)
    rank.close()
    return run


def as_read(rank: Rank, batch: Batch) -> Batch:
    """What the reading thread makes of a batch."""
    return rank.to_tensors({name: tensor.numpy() for name, tensor in batch.items()})


def own_device(kind: str) -> torch.device:
    """The device of this rank, made the current one where it is a GPU."""
    if kind == "cpu":
        return torch.device("cpu")
    device = torch.device(kind, dist.get_rank() if dist.is_initialized() else 0)
    torch.cuda.set_device(device)
    return device
