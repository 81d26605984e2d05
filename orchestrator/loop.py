"""The training loop, on one page. Knows phases and engines; knows no family, strategy, cluster or tracker."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.errors import InfrastructureError, NotANumberError
from orchestrator.models.base import Batch, Objective
from orchestrator.planning.plan import Plan
from orchestrator.planning.schedule import learning_rate_factor
from orchestrator.strategies.base import Engine
from orchestrator.telemetry.meter import Meter, data_waits, throughput


class Step(Protocol):
    """This rank's share of one global batch."""

    micros: list[Batch]
    samples: int
    padded: bool
    epoch: float
    tokens: int
    """Tokens of the global batch; 0 where samples are no text."""


class Surroundings(Protocol):
    """What the loop asks of the worker around it. All but ``log`` and ``before_update`` are collective: every rank
    calls them alike.
    """

    def evaluation(self) -> Iterator[Batch]:
        """The evaluation set's batches: as many on each rank, each sample once over all ranks."""
        ...

    def save(self, step: int, metrics: dict[str, float]) -> None:
        """Write a checkpoint of the state after ``step``."""
        ...

    def before_update(self) -> None:
        """Return when parameters and moments may change: a save may still be copying them."""
        ...

    def show_samples(self, step: int) -> None:
        """Log what the model generates."""
        ...

    def stop_requested(self, step: int) -> bool:
        """Whether the run should end after this step."""
        ...

    def log(self, step: int, values: dict[str, float], seconds: dict[str, float]) -> None:
        """Hand metrics on, and the seconds by part since the last log of training. Returns at once."""
        ...


@dataclass
class Outcome:
    """How the loop ended."""

    step: int
    stopped: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    """Last evaluation, or the last logged training metrics where nothing is evaluated."""


def train(
    plan: Plan,
    engine: Engine,
    objective: Objective,
    steps: Iterator[Step],
    around: Surroundings,
    start_step: int,
) -> Outcome:
    """Take steps ``start_step + 1`` to ``plan.total_steps``.

    Raises:
        NotANumberError: the loss is no longer a number.

    """
    training, meter = plan.job.training, Meter()
    outcome, recent = Outcome(start_step), _Sums()
    for step in range(start_step + 1, plan.total_steps + 1):
        _seed_generators(step_seed(training.seed, step))
        with meter.part("data_wait"):
            batch = next(steps)
        factor = learning_rate_factor(training.schedule, step, plan.total_steps)

        for phase in objective.phases:
            with meter.part("forward_backward"):
                count = _global_units(objective, phase, batch, plan)
                for index, micro in enumerate(batch.micros):
                    with engine.micro_step(phase, last=index == len(batch.micros) - 1):
                        with engine.autocast():
                            sums = objective.loss(phase, engine.modules, micro)
                        engine.backward(phase, sums.loss / count)
                    recent.add(_name(objective, phase), sums.loss.detach(), sums.count, sums.metrics)
            with meter.part("checkpoint"):
                around.before_update()
            with meter.part("optimizer"):
                norm = engine.step(phase, factor, training.clip_grad_norm)
                objective.after_step(phase, engine.modules)
            if not math.isfinite(norm) and training.precision != "fp16":
                raise NotANumberError(
                    f"step {step}: the gradient of {phase} is {norm}, so the loss is no longer a number;"
                    f" lower training.optimizer.learning_rate, set training.clip_grad_norm, or look at the data of this step"
                )
            recent.norms[phase] = norm

        outcome.step, last = step, step == plan.total_steps
        recent.take(batch)
        outcome.stopped = not last and around.stop_requested(step)

        if step % training.log_every == 0 or last or step == start_step + 1:
            means = recent.means(engine.device)
            parts = meter.read()
            wall = sum(parts.values())
            values = {f"train/{name}": value for name, value in means.items()}
            values |= {f"train/grad_norm{_suffix(objective, p)}": n for p, n in recent.norms.items()}
            values |= {
                "train/learning_rate": factor * training.optimizer.learning_rate,
                "train/epoch": batch.epoch,
            }
            values |= {f"perf/{part}_ms": 1e3 * parts[part] / recent.steps for part in parts}
            values |= throughput(plan, recent.samples / wall, recent.tokens / wall, engine.device)
            values |= {
                "perf/step_ms": 1e3 * (wall - parts["evaluate"] - parts["checkpoint"]) / recent.steps,
                **data_waits(parts["data_wait"] / wall, engine.device),
            }
            around.log(step, values, parts)
            recent = _Sums()
            if not plan.evaluate_every:
                outcome.metrics = means

        if plan.evaluate_every and (step % plan.evaluate_every == 0 or last):
            with meter.part("evaluate"):
                outcome.metrics = evaluate(engine, objective, around.evaluation())
            around.log(step, {f"val/{name}": value for name, value in outcome.metrics.items()}, {})

        every = training.check_replicas_every
        if last or outcome.stopped or (every and step % every == 0):
            check_replicas(engine, step)

        if plan.sample_every and (step % plan.sample_every == 0 or last):
            with meter.part("evaluate"):
                around.show_samples(step)

        if step % plan.checkpoint_every == 0 or last or outcome.stopped:
            with meter.part("checkpoint"):
                around.save(step, outcome.metrics)

        if outcome.stopped:
            break
    return outcome


def check_replicas(engine: Engine, step: int) -> None:
    """Collective. A distributed flag must never silently train replicas: what should be equal on all ranks is.

    Raises:
        InfrastructureError: names the first tensor that is not.
    """
    if difference := engine.replicas_differ():
        raise InfrastructureError(f"after step {step} the workers' copies of {difference} are not equal")


def evaluate(engine: Engine, objective: Objective, batches: Iterator[Batch]) -> dict[str, float]:
    """Means over the whole evaluation set, each sample counted once, the same on every rank."""
    sums = _Sums()
    with evaluating(engine), torch.no_grad(), engine.autocast():
        for batch in batches:
            sums.add_metrics(objective.evaluate(engine.modules, batch))
    return sums.means(engine.device)


@contextmanager
def evaluating(engine: Engine) -> Iterator[None]:
    """The modules in evaluation mode: no dropout, running statistics."""
    for module in engine.modules.values():
        module.eval()
    try:
        yield
    finally:
        for module in engine.modules.values():
            module.train()


def step_seed(seed: int, step: int) -> int:
    """Torch's seed at a step: a pure function, so that no generator state has to be saved."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return (seed * 1_000_003 + step) * 65_537 + rank


def _seed_generators(seed: int) -> None:
    """What ``torch.manual_seed`` does; that one keeps a stack trace of each call for a GPU that is never used."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


def _name(objective: Objective, phase: str) -> str:
    return f"loss{_suffix(objective, phase)}"


def _suffix(objective: Objective, phase: str) -> str:
    return "" if len(objective.phases) == 1 else f"_{phase}"


def _global_units(objective: Objective, phase: str, batch: Step, plan: Plan) -> float:
    """Units of the whole global batch; ranks need to agree only where samples differ in how many they have."""
    if objective.units_per_sample is not None and not batch.padded:
        return float(objective.units_per_sample * plan.job.training.global_batch_size)
    units = torch.stack([objective.units(phase, micro).double() for micro in batch.micros]).sum()
    if dist.is_initialized():
        dist.all_reduce(units)
    return max(units.item(), 1.0)


class _Sums:
    """Sums since the last log, kept on the device: nothing waits for it between logs."""

    def __init__(self) -> None:
        self.samples = self.tokens = self.steps = 0
        self.norms: dict[str, float] = {}
        self._sums: dict[str, tuple[Any, Any]] = {}

    def take(self, batch: Step) -> None:
        self.samples, self.tokens, self.steps = (
            self.samples + batch.samples,
            self.tokens + batch.tokens,
            self.steps + 1,
        )

    def add(self, name: str, loss: Tensor, count: Tensor, metrics: Any) -> None:
        self.add_metrics({name: (loss, count), **metrics})

    def add_metrics(self, metrics: Any) -> None:
        for name, (value, count) in metrics.items():
            total, counted = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = total + value, counted + count

    def means(self, device: torch.device) -> dict[str, float]:
        """Collective. Sum over ranks divided by the count over ranks, by name."""
        names = sorted(self._sums)
        if not names:
            return {}
        flat = [
            torch.as_tensor(part, dtype=torch.float64, device=device) for n in names for part in self._sums[n]
        ]
        both = torch.stack([part.detach().reshape(()) for part in flat])
        if dist.is_initialized():
            dist.all_reduce(both)
        values = both.tolist()
        return {name: values[2 * i] / max(values[2 * i + 1], 1e-12) for i, name in enumerate(names)}
