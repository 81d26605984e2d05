"""Proves for a person's own job that distribution changes no result: the job's model and data, a few steps, compared.

(a) one worker; (b) the job's strategy on several; (c) that, stopped halfway and resumed; (d) that, resumed in another
strategy. Runs on this machine's CPU, in fp32 and without dropout, since only then the same numbers are asked for.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator import checkpoint, data
from orchestrator.checkpoint import Checkpoint, CheckpointReader, Checkpoints
from orchestrator.planning.plan import Plan
from orchestrator.section import Section
from orchestrator.spec.job import DdpStrategy, FsdpStrategy
from orchestrator.strategies.ranks import Ranks

if TYPE_CHECKING:
    from orchestrator.rank import Rank

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
    difference: float
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
        DataError: the data can't be read.
        InfrastructureError: a rank failed; with its traceback.
    """
    assert steps >= 2 and steps % 2 == 0
    rows: list[VerifyRow] = []

    def add(check: str, quantity: str, difference: float, tolerance: float) -> None:
        rows.append(VerifyRow(check=check, quantity=quantity, difference=difference, tolerance=tolerance))
        if on_row is not None:
            on_row(rows[-1])

    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        roots = {name: str(Path(folder) / name) for name in ("alone", "several", "resumed", "elsewhere")}
        half = steps // 2
        several = _small(plan, min(plan.world_size, _most_workers(plan)), folder, steps)
        alone = _small(plan, 1, folder, steps, strategy=DdpStrategy())
        elsewhere = _small(plan, several.world_size, folder, steps, strategy=_another(plan))
        prepared = data.prepare(several).model_dump_json()
        named = f"{_strategy_name(several)} × {several.world_size}"
        with Ranks(several.world_size) as ranks, Ranks(1) as one:
            straight_alone = one.run(_run, alone.model_dump_json(), prepared, 0, steps, None, roots["alone"])[
                0
            ]

            def run(of: Plan, start: int, stop: int, resume: Checkpoint | None, root: str) -> RankRun:
                path = resume and resume.path
                runs: list[RankRun] = ranks.run(_run, of.model_dump_json(), prepared, start, stop, path, root)
                return runs[0]

            straight = run(several, 0, steps, None, roots["several"])
            check = f"{named} against one worker"
            add(check, "losses", _largest(straight.losses, straight_alone.losses), LOSS_TOLERANCE)
            add(check, "gradient norms", _largest(straight.norms, straight_alone.norms), NORM_TOLERANCE)
            add(
                check,
                "parameters",
                _distance(_at(roots["several"], steps), _at(roots["alone"], steps)),
                STATE_TOLERANCE,
            )

            middle = _at(roots["several"], half)
            resumed = run(several, half, steps, middle, roots["resumed"])
            check = f"{named}, stopped at step {half} and resumed"
            add(check, "losses", _largest(resumed.losses, straight.losses), 0.0)
            add(
                check,
                "all state, unequal elements",
                _unequal(_at(roots["resumed"], steps), _at(roots["several"], steps)),
                0.0,
            )

            check = f"{named}, resumed as {_strategy_name(elsewhere)} × {elsewhere.world_size}"
            run(elsewhere, half, half, middle, roots["elsewhere"])
            add(check, "all state, unequal elements", _unequal(_at(roots["elsewhere"], half), middle), 0.0)
            onward = run(elsewhere, half, steps, middle, roots["elsewhere"] + "-on")
            add(check, "losses", _largest(onward.losses, straight.losses), LOSS_TOLERANCE)
    return rows


def _strategy_name(plan: Plan) -> str:
    strategy = plan.job.strategy
    return f"zero-{strategy.stage}" if strategy.kind == "zero" else strategy.kind


def _another(plan: Plan) -> DdpStrategy | FsdpStrategy:
    """A strategy that lays state out differently; one with whole parameters where the optimizer needs those."""
    sharded = plan.job.strategy.kind != "ddp" or plan.job.training.optimizer.kind == "adafactor"
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
    changes = {"model": model, "training": training, "scaling": scaling, **job_changes}
    # each rank reads by itself: there is no Ray here
    changes["data"] = job.data.model_copy(update={"reader": "worker"})
    return plan.model_copy(
        update={
            "job": job.model_copy(update=changes),
            "world_size": world_size,
            "micro_batch_size": micro,
            "accumulation_steps": share // micro,
            "storage": folder,
            "evaluate_every": 0,
            "sample_every": 0,
            "checkpoint_every": steps // 2,
            "total_steps": max(plan.total_steps, steps + 1),  # the loop's last step would show samples
        }
    )


# -- on each rank --------------------------------------------------------------------------------------------


class _Recorder:
    """The loop's surroundings: keeps losses and norms, saves into a folder, stops at a step."""

    def __init__(self, assembled: Rank, checkpoints: Checkpoints, stop: int) -> None:
        self.run = RankRun()
        self._assembled, self._checkpoints, self._stop = assembled, checkpoints, stop

    def evaluation(self) -> Iterator[Any]:
        """Nothing is evaluated."""
        return iter(())

    def save(self, step: int, metrics: dict[str, float]) -> None:
        """Write a checkpoint, and wait until it is there."""
        engine = self._assembled.engine
        self._checkpoints.save(step, engine.state(), {"scalars": engine.scalars()}, asynchronous=False)

    def before_update(self) -> None:
        """Saves end before they return."""

    def show_samples(self, step: int) -> None:
        """Nothing is shown."""

    def stop_requested(self, step: int) -> bool:
        """Ends the run at its last step, which may be far from the plan's."""
        return step >= self._stop

    def log(self, step: int, values: dict[str, float], seconds: dict[str, float]) -> None:
        """Keep losses and norms."""
        self.run.losses[step] = [v for k, v in sorted(values.items()) if k.startswith("train/loss")]
        self.run.norms[step] = [v for k, v in sorted(values.items()) if k.startswith("train/grad_norm")]


def _run(plan_json: str, prepared_json: str, start: int, stop: int, resume: str | None, root: str) -> RankRun:
    """Train from step ``start`` to ``stop`` on this rank, saving as the plan says and at the end."""
    import torch.distributed as dist

    from orchestrator import loop
    from orchestrator.data import Prepared
    from orchestrator.rank import assemble

    plan, prepared = Plan.model_validate_json(plan_json), Prepared.model_validate_json(prepared_json)
    assembled = assemble(plan)
    group = dist.new_group(backend="gloo") if assembled.world_size > 1 else None
    checkpoints = Checkpoints(
        root, attempt=1, rank=assembled.number, world_size=assembled.world_size, group=group
    )
    recorder = _Recorder(assembled, checkpoints, stop)
    try:
        if resume is not None:
            assembled.load(checkpoint.checkpoint_at(resume))
        if start == stop:
            recorder.save(start, {})
            return recorder.run
        with contextlib.closing(assembled.open_train(prepared, start_step=start)) as stream:
            steps = assembled.on_device(stream)
            loop.train(plan, assembled.engine, assembled.objective, steps, recorder, start)
        return recorder.run
    finally:
        checkpoints.close()
        assembled.close()


# -- comparing -----------------------------------------------------------------------------------------------


def _largest(got: Mapping[int, list[float]], expected: Mapping[int, list[float]]) -> float:
    """The largest relative difference over the steps that ``got`` has."""
    pairs = [(a, b) for step, values in got.items() for a, b in zip(values, expected[step], strict=True)]
    if not pairs or any(not math.isfinite(a) or not math.isfinite(b) for a, b in pairs):
        return math.inf
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in pairs)


def _at(root: str, step: int) -> Checkpoint:
    return next(found for found in checkpoint.committed(root) if found.step == step)


def _pieces(reader: CheckpointReader) -> Iterator[tuple[str, str, int, int]]:
    """Every tensor in pieces of at most 16 MiB."""
    for (kind, name), (shape, _) in reader.tensors().items():
        total = math.prod(shape)
        for start in range(0, total, 4 << 20):
            yield kind, name, start, min(start + (4 << 20), total)


def _distance(one: Checkpoint, other: Checkpoint) -> float:
    """Euclidean norm of the difference of all parameters, relative to that of all parameters."""
    difference = size = 0.0
    with CheckpointReader(one) as mine, CheckpointReader(other) as theirs:
        for kind, name, start, stop in _pieces(theirs):
            if kind == "parameter":
                a, b = (r.read(kind, name, start, stop).double() for r in (mine, theirs))
                difference += float((a - b).square().sum())
                size += float(b.square().sum())
    return math.sqrt(difference / size) if size else 0.0


def _unequal(one: Checkpoint, other: Checkpoint) -> float:
    """How many elements of the whole state are not equal bit for bit."""
    count = 0
    with CheckpointReader(one) as mine, CheckpointReader(other) as theirs:
        if mine.tensors() != theirs.tensors():
            return math.inf
        for kind, name, start, stop in _pieces(theirs):
            count += int((mine.read(kind, name, start, stop) != theirs.read(kind, name, start, stop)).sum())
    return float(count)
