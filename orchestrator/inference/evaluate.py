"""A run's own evaluation metrics over other data: by the rank, the loop and the reading that training evaluates with."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import nullcontext
from typing import Any, get_args

from orchestrator import checkpoint, data, loop
from orchestrator.checkpoint import Checkpoint
from orchestrator.data import Prepared
from orchestrator.errors import DataError, SpecError
from orchestrator.inference.task import refuse_without_averages
from orchestrator.models.base import Batch
from orchestrator.planning.fit import OF_AVERAGES
from orchestrator.planning.plan import Plan
from orchestrator.rank import Rank, assemble
from orchestrator.section import AnyFloat, Section
from orchestrator.spec.data import Source
from orchestrator.spec.job import DdpStrategy
from orchestrator.strategies.ranks import Ranks

_LONGEST_SECONDS = 7 * 86_400.0


class Evaluation(Section):
    """Metrics of a checkpoint over data."""

    run: str
    """The run that trained the model."""
    step: int
    """Of the checkpoint."""
    data: str
    """What the data is called."""
    samples: int
    """Samples that were counted, each once."""
    metrics: dict[str, AnyFloat]
    """By the names that training evaluates under, without ``val/``."""


def evaluate(
    plan: Plan, saved: Checkpoint, held_out: Source | None, *, name: str, averaged: bool, workers: int
) -> Evaluation:
    """Measure a checkpoint.

    Args:
        plan: of its run.
        saved: the checkpoint.
        held_out: the data, by an absolute path; None: what the run itself evaluates on.
        name: of the data.
        averaged: with the moving averages of the weights; the metrics are then called ``ema/...``.
        workers: processes on this machine, which share the samples.

    Raises:
        SpecError: there are no averages.
        DataError: the data can't be read, or isn't like the training data; or the training data has changed, from which
            comes how its rows become samples.
        CheckpointError: the checkpoint is damaged.
    """
    if averaged:
        refuse_without_averages(plan)
    there = _on_this_machine(plan, workers)
    prepared = data.prepare(there, held_out)
    data.token_bytes_of(there.job, prepared)
    if prepared.evaluation is None:
        raise DataError(f"{plan.run_id} evaluates on nothing (its job has no data.eval); give --data")
    if change := data.describe_change(saved.meta["identity"], prepared.identity):
        raise DataError(
            f"the training data, from which comes how rows become samples, is not what step {saved.step} was trained on:"
            f" {change}; put it back"
        )
    threads = max(1, int(plan.job.scaling.cpus_per_worker))
    with Ranks(workers, threads=threads, timeout_seconds=_LONGEST_SECONDS) as ranks:
        metrics = ranks.run(
            _measured, there.model_dump_json(), prepared.model_dump_json(), saved.path, averaged
        )[0]
    return Evaluation(
        run=plan.run_id, step=saved.step, data=name, samples=prepared.eval_samples, metrics=metrics
    )


def with_metrics(plan: Plan, metrics: Collection[str]) -> Plan:
    """The plan of a run whose evaluation measures more. Raises SpecError for what its objective has not."""
    objective = plan.job.objective
    field = type(objective).model_fields.get("metrics")
    allowed = get_args(get_args(field.annotation)[0]) if field is not None else ()
    if unknown := [name for name in metrics if name not in allowed]:
        there = f"it has {', '.join(allowed)}" if allowed else "it has none beside its own"
        raise SpecError(f"--metrics {unknown[0]}: {objective.kind} has no such metric; {there}")
    asked = tuple(dict.fromkeys((*objective.measured, *metrics)))
    changed = objective.model_copy(update={"metrics": asked} if metrics else {})
    return plan.model_copy(update={"job": plan.job.model_copy(update={"objective": changed})})


def _on_this_machine(plan: Plan, workers: int) -> Plan:
    """The plan of a group of whole models on CPUs, which starts from a checkpoint and reads by itself. What was trained in
    fp16, which CPUs do not compute in, is evaluated in fp32.
    """
    job = plan.job
    precision = "fp32" if job.training.precision == "fp16" else job.training.precision
    changes: dict[str, Any] = {
        "training": job.training.model_copy(update={"precision": precision, "compile": False}),
        "strategy": DdpStrategy(),
        "scaling": job.scaling.model_copy(update={"workers": workers, "gpus_per_worker": 0}),
        "data": job.data.model_copy(update={"reader": "worker"}),
    }
    if job.initialize.lora is None:
        changes["initialize"] = job.initialize.model_copy(update={"weights": None})
    return plan.model_copy(
        update={
            "job": job.model_copy(update=changes),
            "world_size": workers,
            "sizes": (),
            "evaluate_every": 1,
        }
    )


def _batches(rank: Rank, prepared: Prepared) -> Iterator[Batch]:
    stream = rank.open_eval(prepared)
    assert stream is not None
    for arrays in stream.batches():
        yield rank.to_device(rank.to_tensors(arrays))


def _measured(plan_json: str, prepared_json: str, path: str, averaged: bool) -> dict[str, float]:
    """On each rank: the metrics over all ranks' shares."""
    plan, prepared = Plan.model_validate_json(plan_json), Prepared.model_validate_json(prepared_json)
    rank = assemble(plan)
    try:
        rank.load(checkpoint.checkpoint_at(path))
        classes = data.inputs_of(plan.job, prepared).classes
        asked = plan.job.objective.measured, classes, data.token_bytes_of(plan.job, prepared)
        batches = _batches(rank, prepared)
        with rank.engine.averaged() if averaged else nullcontext():
            values = loop.evaluate(rank.engine, rank.objective, batches, *asked).values
        return {f"{OF_AVERAGES if averaged else ''}{name}": value for name, value in values.items()}
    finally:
        rank.close()
