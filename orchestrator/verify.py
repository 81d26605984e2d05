"""Proves for a person's own job that distribution changes no result: the job's model and data, a few steps, compared.

(a) one worker; (b) the job's strategy on several; (c) that, stopped halfway and resumed; (d) that, resumed in another
strategy. Runs on this machine's CPU, in fp32 and without dropout, since only then the same numbers are asked for.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import nn

from orchestrator import checkpoint, data, loop
from orchestrator.checkpoint import Checkpoint, Checkpoints, relative_distance, unequal_elements
from orchestrator.data import Prepared
from orchestrator.planning.fit import needs_whole
from orchestrator.planning.plan import Plan
from orchestrator.rank import assemble
from orchestrator.section import AnyFloat, Section
from orchestrator.spec.strategy import DdpStrategy, FsdpStrategy, StrategySection
from orchestrator.strategies.ranks import Ranks
from orchestrator.testing import RecordingSurroundings

LOSS_TOLERANCE = 1e-5
"""Largest relative difference of a loss."""
NORM_TOLERANCE = 1e-4
"""Largest relative difference of a gradient's global norm."""
STATE_TOLERANCE = 1e-3
"""Largest relative difference of all parameters together (Euclidean norm). Elements whose gradient cancels to
nothing are rounding, which Adam scales up to whole steps, so this is wider than the losses'."""


class VerifyRow(Section):
    """One comparison."""

    check: str
    """What was compared with what."""
    quantity: str
    """``losses``, ``gradient norms`` or ``parameters``, ``all state`` ..."""
    difference: AnyFloat
    """The largest difference found: relative, or the number of unequal elements where bits are compared."""
    tolerance: float
    """The largest that passes."""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


@dataclass
class RankRun:
    """What a rank saw."""

    losses: dict[int, list[float]] = field(default_factory=dict)
    """Step -> the losses of its phases."""
    norms: dict[int, list[float]] = field(default_factory=dict)
    """Step -> the gradients' global norms of its phases."""


def verify(
    plan: Plan, *, steps: int = 6, on_row: Callable[[VerifyRow], None] | None = None
) -> list[VerifyRow]:
    """Run all comparisons and return them; ``on_row`` is called as each is made.

    Args:
        plan: of the job. Its cluster, precision and tracking do not matter.
        steps: optimizer steps of each run; an even number.
        on_row: for a display that grows.

    Raises:
        DataError: the data can't be read, or is not what the objective reads.
        SpecError, NotFoundError, CheckpointError: the weights to start from don't fit, or are not there.
        InfrastructureError: a rank failed; with its traceback.
    """
    assert steps >= 2 and steps % 2 == 0
    rows: list[VerifyRow] = []

    def add(check: str, quantity: str, difference: float, tolerance: float) -> None:
        rows.append(VerifyRow(check=check, quantity=quantity, difference=difference, tolerance=tolerance))
        if on_row is not None:
            on_row(rows[-1])

    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        several = _small(plan, min(plan.world_size, _most_workers(plan)), folder, steps)
        prepared = data.prepare(several).model_dump_json()
        with Ranks(1) as one:
            lone = _small(plan, 1, folder, steps, strategy=DdpStrategy())
            alone = _Run.of(one, lone, prepared, f"{folder}/alone", 0, steps)
        with Ranks(several.world_size) as ranks:
            straight = _Run.of(ranks, several, prepared, f"{folder}/several", 0, steps)
            _compare_with_one_worker(add, straight, alone)
            resumed = _Run.of(ranks, several, prepared, f"{folder}/resumed", steps // 2, steps, straight)
            _compare_with_resumed(add, straight, resumed)
            other = _small(plan, several.world_size, folder, steps, strategy=_another(plan))
            moved = _Run.of(ranks, other, prepared, f"{folder}/moved", steps // 2, steps // 2, straight)
            onward = _Run.of(ranks, other, prepared, f"{folder}/onward", steps // 2, steps, straight)
            _compare_with_another_strategy(add, straight, moved, onward)
    return rows


_Add = Callable[[str, str, float, float], None]


@dataclass(frozen=True)
class _Run:
    """Steps that were trained, and where their checkpoints are."""

    name: str
    root: str
    start: int
    stop: int
    seen: RankRun

    @classmethod
    def of(
        cls,
        ranks: Ranks,
        plan: Plan,
        prepared: str,
        root: str,
        start: int,
        stop: int,
        resumes: _Run | None = None,
    ) -> _Run:
        """Train the plan from step ``start`` to ``stop`` on the ranks, from the state of another run where one is given."""
        path = resumes and resumes.at(start).path
        seen: list[RankRun] = ranks.run(_train, plan.model_dump_json(), prepared, start, stop, path, root)
        strategy = plan.job.strategy
        kind = f"zero-{strategy.stage}" if strategy.kind == "zero" else strategy.kind
        return cls(f"{kind} × {plan.world_size}", root, start, stop, seen[0])

    def at(self, step: int) -> Checkpoint:
        """The checkpoint of a step."""
        return next(found for found in checkpoint.committed(self.root) if found.step == step)


def _compare_with_one_worker(add: _Add, straight: _Run, alone: _Run) -> None:
    check, stop = f"{straight.name} against one worker", straight.stop
    add(check, "losses", _largest(straight.seen.losses, alone.seen.losses), LOSS_TOLERANCE)
    add(check, "gradient norms", _largest(straight.seen.norms, alone.seen.norms), NORM_TOLERANCE)
    add(check, "parameters", relative_distance(straight.at(stop), alone.at(stop)), STATE_TOLERANCE)


def _compare_with_resumed(add: _Add, straight: _Run, resumed: _Run) -> None:
    check, stop = f"{straight.name}, stopped at step {resumed.start} and resumed", resumed.stop
    add(check, "losses", _largest(resumed.seen.losses, straight.seen.losses), 0.0)
    add(check, "all state, unequal elements", unequal_elements(resumed.at(stop), straight.at(stop)), 0.0)


def _compare_with_another_strategy(add: _Add, straight: _Run, moved: _Run, onward: _Run) -> None:
    check, step = f"{straight.name}, resumed as {moved.name}", moved.start
    add(check, "all state, unequal elements", unequal_elements(moved.at(step), straight.at(step)), 0.0)
    add(check, "losses", _largest(onward.seen.losses, straight.seen.losses), LOSS_TOLERANCE)


def _another(plan: Plan) -> DdpStrategy | FsdpStrategy:
    """A strategy that lays state out differently; one with whole parameters where the optimizer needs those."""
    sharded = plan.job.strategy.kind != "ddp" or needs_whole(plan.job)
    return DdpStrategy() if sharded else FsdpStrategy()


def _most_workers(plan: Plan) -> int:
    """At most four, and so that they share the global batch evenly."""
    batch = plan.job.training.global_batch_size
    return max(n for n in range(1, 5) if batch % n == 0)


def _small(plan: Plan, world_size: int, folder: str, steps: int, **job_changes: Any) -> Plan:
    """The plan on ``world_size`` local CPU workers, in fp32 and without dropout, with nothing but training."""
    job = plan.job
    model = job.model.model_copy(
        update={name: 0.0 for name in type(job.model).model_fields if name.endswith("dropout")}
    )
    share = job.training.global_batch_size // world_size
    micro = max(n for n in range(1, min(plan.micro_batch_size, share) + 1) if share % n == 0)
    training = job.training.model_copy(
        update={"precision": "fp32", "compile": False, "log_every": 1, "check_replicas_every": 1}
    )
    scaling = job.scaling.model_copy(update={"workers": world_size, "gpus_per_worker": 0})
    strategy = _smaller(job.strategy, world_size)
    changes = {"model": model, "training": training, "scaling": scaling, "strategy": strategy, **job_changes}
    # each rank reads by itself: there is no Ray here
    changes["data"] = job.data.model_copy(update={"reader": "worker"})
    return plan.model_copy(
        update={
            "job": job.model_copy(update=changes),
            "world_size": world_size,
            "sizes": (),
            "micro_batch_size": micro,
            "accumulation_steps": share // micro,
            "storage": folder,
            "evaluate_every": 0,
            "sample_every": 0,
            "checkpoint_every": steps // 2,
            "total_steps": max(plan.total_steps, steps + 1),  # the loop's last step would show samples
        }
    )


def _smaller(strategy: StrategySection, world_size: int) -> StrategySection:
    """The strategy for fewer workers on CPUs: still in several groups where that can be, and nothing rounded."""
    if strategy.kind == "ddp" or strategy.shard_group in (None, "node"):
        groups: dict[str, Any] = {}
    else:
        fits = [
            n for n in range(1, world_size) if world_size % n == 0 and n <= int(strategy.shard_group or 0)
        ]
        wide = [n for n in fits if n > 1 or strategy.kind == "fsdp"]
        groups = {"shard_group": max(wide, default=None)}
    exact = {"quantized_weights": False, "quantized_gradients": False} if strategy.kind == "zero" else {}
    return strategy.model_copy(update={**groups, **exact})


# -- on each rank --------------------------------------------------------------------------------------------


def _train(
    plan_json: str, prepared_json: str, start: int, stop: int, resume: str | None, root: str
) -> RankRun:
    """Train from step ``start`` to ``stop`` on this rank, saving as the plan says and at the end."""
    plan, prepared = Plan.model_validate_json(plan_json), Prepared.model_validate_json(prepared_json)
    rank = assemble(plan)
    _without_dropout(rank.engine.modules)
    group = dist.new_group(backend="gloo") if rank.world_size > 1 else None
    checkpoints = Checkpoints(root, attempt=1, rank=rank.number, world_size=rank.world_size, group=group)
    around = RecordingSurroundings(stop_at=stop, checkpoints=checkpoints, engine=rank.engine)
    try:
        if resume is not None:
            rank.load(checkpoint.checkpoint_at(resume))
        if start == stop:
            around.save(start, {})
        else:
            with contextlib.closing(rank.open_train(prepared, start_step=start)) as stream:
                loop.train(plan, rank.engine, rank.objective, rank.on_device(stream), around, start)
        checkpoints.wait()
    finally:
        checkpoints.close()
        rank.close()
    return RankRun(around.metrics("train/loss"), around.metrics("train/grad_norm"))


def _without_dropout(modules: Mapping[str, nn.Module]) -> None:
    """In a model of a person's own no field of the config says its dropout: its layers do."""
    for module in modules.values():
        for child in module.modules():
            if isinstance(child, nn.modules.dropout._DropoutNd):
                child.p = 0.0
            elif isinstance(child, nn.RNNBase):
                child.dropout = 0.0


# -- comparing -----------------------------------------------------------------------------------------------


def _largest(got: Mapping[int, list[float]], expected: Mapping[int, list[float]]) -> float:
    """The largest relative difference over the steps that ``got`` has."""
    pairs = [(a, b) for step, values in got.items() for a, b in zip(values, expected[step], strict=True)]
    if not pairs or any(not math.isfinite(a) or not math.isfinite(b) for a, b in pairs):
        return math.inf
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)
