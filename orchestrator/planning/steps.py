"""How many steps a run has, and after how many of them it evaluates, shows samples and saves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import SpecError
from orchestrator.spec.job import JobSpec
from orchestrator.spec.training import TrainingSpec


@dataclass(frozen=True)
class Cadence:
    """Steps between events that come again and again; 0: never."""

    evaluate_every: int
    sample_every: int
    checkpoint_every: int


def steps_per_epoch(train_samples: int, global_batch_size: int, tail: Literal["pad", "drop"]) -> int:
    """Global batches of one epoch; the last, partial one is padded or dropped."""
    return -(-train_samples // global_batch_size) if tail == "pad" else train_samples // global_batch_size


def count_steps(training: TrainingSpec, tail: Literal["pad", "drop"], train_samples: int | None) -> int:
    """Optimizer steps of the run.

    Args:
        tail: what becomes of an epoch's last, partial batch.
        train_samples: of one epoch; None: not known yet.

    Raises:
        SpecError: epochs of an unknown length, a batch larger than the data, or a warm-up longer than the run.
    """
    batch = training.global_batch_size
    if train_samples is not None and train_samples < batch:
        raise SpecError(
            f"training.global_batch_size: {batch} is more than the {train_samples} training samples; use at most those"
        )
    steps = training.max_steps or _steps_of_epochs(training, tail, train_samples)
    if training.schedule.warmup_steps > steps:
        raise SpecError(
            f"training.schedule.warmup_steps {training.schedule.warmup_steps} is more than the run's {steps} steps"
        )
    return steps


def _steps_of_epochs(training: TrainingSpec, tail: Literal["pad", "drop"], train_samples: int | None) -> int:
    assert training.epochs is not None, "one of max_steps and epochs is given"
    if train_samples is None:
        raise SpecError(
            "training.epochs: the number of samples isn't known before the data is prepared; give max_steps"
        )
    return math.ceil(steps_per_epoch(train_samples, training.global_batch_size, tail) * training.epochs)


def choose_cadence(job: JobSpec, total_steps: int) -> Cadence:
    """As written, else a tenth of the run; samples with each evaluation, of whose batches they are made.

    Raises:
        SpecError: evaluations or samples are asked for, but there is nothing to evaluate.
    """
    training, tenth = job.training, max(1, total_steps // 10)
    checkpoint_every = job.checkpoint.every_steps or tenth
    if job.data.eval is None:
        for field in ("evaluate_every", "sample_every"):
            if getattr(training, field):
                raise SpecError(f"training.{field} is given, but data.eval is not")
        return Cadence(0, 0, checkpoint_every)
    evaluate_every = training.evaluate_every or tenth
    return Cadence(evaluate_every, training.sample_every or evaluate_every, checkpoint_every)
