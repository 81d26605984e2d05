"""The training loop, on one page. Knows phases and engines; knows no family, strategy, cluster or tracker."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.errors import InfrastructureError, NotANumberError
from orchestrator.models.base import Batch, Objective
from orchestrator.models.metrics import Evaluated, summarized
from orchestrator.models.text_scores import Spell
from orchestrator.planning.fit import OF_AVERAGES
from orchestrator.planning.plan import Plan
from orchestrator.planning.schedule import schedule_of
from orchestrator.strategies.base import Engine
from orchestrator.telemetry.evaluation_sums import EvaluationSums
from orchestrator.telemetry.meter import Meter, clock_of
from orchestrator.telemetry.not_a_number import FirstDivergence, explained, samples_to_blame
from orchestrator.telemetry.spikes import Spike, SpikeWatch
from orchestrator.telemetry.step_metrics import OwnTimes, StepMetrics


class Step(Protocol):
    """This rank's share of one global batch."""

    micros: list[Batch]
    samples: int
    padded: bool
    epoch: float
    tokens: int
    """Tokens of the global batch; 0 where samples are no text."""


class Surroundings(Protocol):
    """What the loop asks of the worker around it. All but ``log``, ``before_update`` and ``place`` are collective:
    every rank calls them alike.
    """

    left_out: Collection[int]
    """Steps whose batches are not trained on."""
    spikes: SpikeWatch
    """Looks at each step's loss."""

    def spiked(self, spike: Spike) -> None:
        """Tell of one. Called by every rank, some steps after it."""
        ...

    def evaluation(self) -> Iterator[Batch]:
        """The evaluation set's batches: as many on each rank, each sample once over all ranks."""
        ...

    def class_names(self) -> Sequence[str]:
        """Names of the data's classes, in the order of the model's outputs; empty where it has none."""
        ...

    def token_bytes(self) -> np.ndarray[Any, Any] | None:
        """(vocabulary,) bytes of text that each token stands for; None where nothing is measured by them."""
        ...

    def spell(self) -> Spell | None:
        """What makes texts of tokens that were written; None where no texts are scored."""
        ...

    def enough(self, measured: dict[str, float]) -> str:
        """Why training no longer helps, with what an evaluation just measured (empty: none was made yet in this attempt);
        empty where it may. The same answer on every rank.
        """
        ...

    def is_best(self, metrics: dict[str, float]) -> bool:
        """Whether a checkpoint with these metrics would be kept as one of the best; the same answer on every rank."""
        ...

    def save(self, step: int, metrics: dict[str, float]) -> None:
        """Write a checkpoint of the state after ``step``, with the metrics that were measured after it."""
        ...

    def before_update(self) -> None:
        """Return when parameters and moments may change: a save may still be copying them."""
        ...

    def show_samples(self, step: int) -> None:
        """Log what the model generates."""
        ...

    def show_confusion(self, step: int, matrix: np.ndarray[Any, Any]) -> None:
        """Log which classes were taken for which: (classes, classes) samples by true and by predicted class."""
        ...

    def stop_requested(self, step: int) -> bool:
        """Whether the run should end after this step."""
        ...

    def log(self, step: int, values: dict[str, float], seconds: dict[str, float]) -> None:
        """Hand metrics on, and the seconds by part since the last log of training. Returns at once."""
        ...

    def again(self, step: int) -> Sequence[Batch]:
        """This rank's micro-batches of a step that was taken, read once more."""
        ...

    def place(self, sample: int) -> str:
        """Where a training sample lies, for a person: file and row."""
        ...


@dataclass
class Outcome:
    """How the loop ended."""

    step: int
    stopped: bool = False
    rewinds: Spike | None = None
    """The step that is to be left out from the last checkpoint on; the loop has ended because of it."""
    enough: str = ""
    """Why training ended before the plan's last step without being stopped; empty where it did not."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The newest of each, of training (``train/loss``) and of evaluation (``val/loss``); nothing that is a speed."""


def train(
    plan: Plan,
    engine: Engine,
    objective: Objective,
    steps: Iterator[Step],
    around: Surroundings,
    start_step: int,
) -> Outcome:
    """Take steps ``start_step + 1`` to ``plan.total_steps``.

    Between logs, evaluations and saves the host asks the device for no value, so it stays ahead of it.

    Raises:
        NotANumberError: the loss is no longer a number; names the samples that it comes from, where it does.
        UserCodeError: a spike of the loss ends the run.

    """
    training, meter = plan.job.training, Meter(clock_of(engine.device), reduces_last=engine.reduces_last)
    outcome, recent = Outcome(start_step), StepMetrics(plan, objective, engine.device)
    divergence, spikes = FirstDivergence(objective.phases, engine.device), around.spikes
    factor_at = schedule_of(training.schedule, plan.total_steps)
    outcome.enough = around.enough({})
    if outcome.enough:
        return outcome
    for step in range(start_step + 1, plan.total_steps + 1):
        _seed_generators(step_seed(training.seed, step))
        with meter.part("data_wait"):
            batch = next(steps)
        factor = factor_at(step)

        is_trained = step not in around.left_out
        for phase in objective.phases if is_trained else ():
            with meter.part("forward_backward"):
                count = _global_units(objective, phase, batch, plan)
                for index, micro in enumerate(batch.micros):
                    with engine.micro_step(phase, last=index == len(batch.micros) - 1):
                        with meter.forward(), engine.autocast():
                            sums = objective.loss(phase, engine.modules, micro)
                        with meter.backward(loss := sums.loss / count):
                            engine.backward(phase, loss)
                    recent.add_loss(phase, sums)
                    spikes.add(phase, sums)
            with meter.part("checkpoint"):
                around.before_update()
            with meter.part("optimizer"):
                update = engine.step(phase, factor, training.clip_grad_norm, spikes.look(step, phase))
                objective.after_step(phase, engine.modules)
            divergence.note(step, phase, update)
            recent.add_update(phase, update.norm)

        measured: dict[str, float] = {}
        outcome.step, last = step, step == plan.total_steps
        recent.add_step(batch.samples * is_trained, batch.tokens * is_trained)
        outcome.stopped = not last and around.stop_requested(step)

        ends = last or outcome.stopped
        logs = step % training.log_every == 0 or last or step == start_step + 1
        evaluates = bool(plan.evaluate_every) and (step % plan.evaluate_every == 0 or last)
        every = training.check_replicas_every
        compares = ends or bool(every and step % every == 0)
        saves = step % plan.checkpoint_every == 0 or ends
        if logs or evaluates or compares or saves:
            found = spikes.read()
            for spike in found:
                around.spiked(spike)
            if found and spikes.rewinds:
                outcome.rewinds = found[0]
                break
            stop_where_diverged(divergence, plan, engine, objective, around)

        if logs:
            means, seconds = recent.means(), meter.read()
            own = OwnTimes(meter.forward_seconds, meter.reduction_seconds)
            values = recent.named(means, factor=factor, epoch=batch.epoch, seconds=seconds, own=own)
            if training.precision == "fp16":
                values |= recent.fp16(engine.scalars(), step)
            if spikes.spec is not None or around.left_out:
                values["train/left_out"] = float(spikes.count + sum(one <= step for one in around.left_out))
            around.log(step, values, seconds)
            recent = StepMetrics(plan, objective, engine.device)
            measured |= {name: value for name, value in values.items() if name.startswith("train/")}

        is_best = False
        if evaluates:
            with meter.part("evaluate"):
                measures = evaluate_all(plan, engine, objective, around)
            evaluated = {f"val/{name}": value for name, value in measures.values.items()}
            around.log(step, evaluated, {})
            measured |= evaluated
            is_best = around.is_best(measured)
            enough = around.enough(measured)
            outcome.enough = "" if ends else enough
            if measures.confusion is not None:
                around.show_confusion(step, measures.confusion)
        outcome.metrics |= measured

        if compares or outcome.enough:
            check_replicas(engine, step)

        if saves or is_best or outcome.enough:
            with meter.part("checkpoint"):
                around.save(step, measured)

        # after the save, so that samples that can't be made lose no checkpoint
        if plan.sample_every and (step % plan.sample_every == 0 or last):
            with meter.part("samples"):
                around.show_samples(step)

        if outcome.stopped or outcome.enough:
            break
    return outcome


def stop_where_diverged(
    found: FirstDivergence, plan: Plan, engine: Engine, objective: Objective, around: Surroundings
) -> None:
    """Collective. Nothing was updated since the first step that diverged, so its batch can be looked at once more.

    Raises:
        NotANumberError: there was one.
    """
    first = found.read()
    if first is None:
        return
    with evaluating(engine):
        micros = around.again(first.step)
        blamed = samples_to_blame(objective, first.phase, engine.modules, micros)
    raise NotANumberError(explained(first, plan.job.training, blamed, around.place))


def check_replicas(engine: Engine, step: int) -> None:
    """Collective. A distributed flag must never silently train replicas: what should be equal on all ranks is.

    Raises:
        InfrastructureError: names the first tensor that is not.
    """
    if difference := engine.replicas_differ():
        raise InfrastructureError(f"after step {step} the workers' copies of {difference} are not equal")


def evaluate_all(plan: Plan, engine: Engine, objective: Objective, around: Surroundings) -> Evaluated:
    """Collective. Metrics of the evaluation set with the weights as they are, and as ``ema/...`` with their averages, where
    those are kept.
    """
    asked = plan.job.objective.measured, around.class_names(), around.token_bytes(), around.spell()
    found = evaluate(engine, objective, around.evaluation(), *asked)
    if plan.job.training.ema is None:
        return found
    around.before_update()  # a save of the step before may still be copying what changes places now
    with engine.averaged():
        averaged = evaluate(engine, objective, around.evaluation(), *asked).values
    named = {f"{OF_AVERAGES}{name}": value for name, value in averaged.items()}
    return Evaluated({**found.values, **named}, found.confusion)


def evaluate(
    engine: Engine,
    objective: Objective,
    batches: Iterator[Batch],
    asked: Collection[str] = (),
    classes: Sequence[str] = (),
    token_bytes: np.ndarray[Any, Any] | None = None,
    spell: Spell | None = None,
    sums: EvaluationSums | None = None,
) -> Evaluated:
    """Collective. Metrics of the whole evaluation set, each sample counted once, the same on every rank.

    Args:
        asked: the metrics beside the objective's own, see ``models.metrics.summarized``.
        classes: names of the classes.
        token_bytes: see ``Surroundings.token_bytes``.
        spell: see ``Surroundings.spell``.
        sums: of the batches before these.
    """
    sums = sums or EvaluationSums(engine.device)
    with evaluating(engine):
        for batch in batches:
            sums.add(objective.evaluate(engine.modules, batch))
    return summarized(asked, sums.totals(), classes, token_bytes, spell)


@contextmanager
def evaluating(engine: Engine) -> Iterator[None]:
    """Forwards as they are evaluated: no dropout, running statistics, no gradient, in the job's precision."""
    for module in engine.modules.values():
        module.eval()
    try:
        with torch.no_grad(), engine.autocast():
            yield
    finally:
        for module in engine.modules.values():
            module.train()


def step_seed(seed: int, step: int) -> int:
    """Torch's seed at a step: a pure function, so that no generator state has to be saved. Below 2**63, as torch asks."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**63


def _seed_generators(seed: int) -> None:
    """What ``torch.manual_seed`` does; that one keeps a stack trace of each call for a GPU that is never used."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(seed)


def _global_units(objective: Objective, phase: str, batch: Step, plan: Plan) -> float | Tensor:
    """Units of the whole global batch; ranks need to agree only where samples differ in how many they have."""
    if objective.units_per_sample is not None and not batch.padded:
        return float(objective.units_per_sample * plan.job.training.global_batch_size)
    units = torch.stack([objective.units(phase, micro).double() for micro in batch.micros]).sum()
    if dist.is_initialized():
        dist.all_reduce(units)
    return units.clamp(min=1.0).float()
