"""A few steps of a family on an engine. Everything here is importable by ranks."""

from __future__ import annotations

import engine_toys as toys
import torch
import torch.distributed as dist
from family_cases import CASES, IDS, random_batch

from orchestrator import strategies
from orchestrator.models import build_modules, build_objective
from orchestrator.planning.plan import Plan

BATCH, MICRO = 8, 2


def train_family(plan: Plan, name: str, steps: int) -> toys.Run:
    """Train a case on this rank, in micro-batches, and draw samples as the loop does."""
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    case = CASES[IDS.index(name)]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    modules, objective = (
        build_modules(case.config, case.objective),
        build_objective(case.config, case.objective),
    )
    engine = strategies.prepare(plan, modules, objective, torch.device("cpu"))
    run = toys.Run()
    for step in range(steps):
        batch = random_batch(case, dict(objective.inputs()), BATCH, seed=step)
        begins = range(rank * BATCH // world_size, (rank + 1) * BATCH // world_size, MICRO)
        micros = [{key: tensor[at : at + MICRO] for key, tensor in batch.items()} for at in begins]
        for phase in objective.phases:
            count = objective.units(phase, batch)
            total = torch.zeros(())
            for index, micro in enumerate(micros):
                with engine.micro_step(phase, last=index == len(micros) - 1):
                    with engine.autocast():
                        sums = objective.loss(phase, engine.modules, micro)
                    engine.backward(phase, sums.loss / count)
                total += sums.loss.detach() / count
            run.norms.append(engine.step(phase, 1.0, plan.job.training.clip_grad_norm))
            objective.after_step(phase, engine.modules)
            if world_size > 1:
                dist.all_reduce(total)
            run.losses.append(float(total))
        if step == 1:
            with torch.no_grad():
                objective.samples(engine.modules, micros[0], 1)
                objective.evaluate(engine.modules, micros[0])
    run.differ = engine.replicas_differ()
    run.ranges = [(r.kind, r.name, r.shape, r.start, r.values.clone()) for r in engine.state()]
    engine.close()
    return run
