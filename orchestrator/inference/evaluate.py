"""A run's own evaluation metrics over other data: by the rank, the loop and the reading that training evaluates with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, get_args

from orchestrator import checkpoint, data, loop
from orchestrator.checkpoint import Checkpoint
from orchestrator.data import Prepared
from orchestrator.data.sources.kinds import source_at
from orchestrator.errors import DataError, SpecError
from orchestrator.inference.kept_sums import KeptSums
from orchestrator.inference.results import Evaluation
from orchestrator.inference.task import refuse_without_averages
from orchestrator.models.base import Batch
from orchestrator.planning.fit import OF_AVERAGES
from orchestrator.planning.plan import Plan
from orchestrator.rank import Rank, assemble
from orchestrator.spec.data import Source
from orchestrator.spec.load import home
from orchestrator.spec.strategy import DdpStrategy
from orchestrator.storage import store_at
from orchestrator.strategies.ranks import Ranks

_LONGEST_SECONDS = 7 * 86_400.0
_SECONDS_BETWEEN_KEPT = 30.0
"""How often a launch puts down what it has measured so far."""


def evaluate(
    plan: Plan, saved: Checkpoint, held_out: Source | None, *, name: str, averaged: bool, workers: int
) -> Evaluation:
    """Measure a checkpoint on this machine's CPUs.

    Args:
        plan: of its run.
        saved: the checkpoint.
        held_out: the data, by an absolute path; None: what the run itself evaluates on.
        name: of the data.
        averaged: with the moving averages of the weights; the metrics are then called ``ema/...``.
        workers: processes on this machine, which share the samples.

    Raises:
        SpecError, DataError: as ``order_of``.
        CheckpointError: the checkpoint is damaged.
    """
    order = order_of(_on_this_machine(plan, workers), saved, held_out, averaged=averaged)
    threads = max(1, int(plan.job.scaling.cpus_per_worker))
    with (
        going_on(order, str(home() / "cache")) as order,
        Ranks(workers, threads=threads, timeout_seconds=_LONGEST_SECONDS) as ranks,
    ):
        metrics = ranks.run(measure, order)[0]
    return evaluation_of(order, saved, name, metrics)


def held_out_at(plan: Plan, path: str | None) -> tuple[Source | None, str]:
    """Data at an absolute path or pattern, read as a run's training data is where it is of its kind; and what it is called in
    MLflow: its file or folder, without its ending; of a pattern the folder. Without a path what the run evaluates on.

    Raises:
        DataError: there is none.
    """
    if path is None:
        return None, "eval"
    like = plan.job.data.train
    parts = [part for part in path.rstrip("/").split("/") if not set(part) & set("*?[")]
    last = parts[-1] if parts else "data"
    return source_at(path, like[0] if isinstance(like, tuple) else like), last.rpartition(".")[0] or last


def order_of(plan: Plan, saved: Checkpoint, held_out: Source | None, *, averaged: bool) -> dict[str, Any]:
    """Prepare the data, and what each rank is told.

    Args:
        plan: how it is evaluated.
        saved: the checkpoint.
        held_out: as for ``evaluate``.
        averaged: as for ``evaluate``.

    Raises:
        SpecError: there are no averages.
        DataError: the data can't be read, or isn't like the training data; or the training data has changed, from which
            comes how its rows become samples.
    """
    if averaged:
        refuse_without_averages(plan)
    prepared = data.prepare(plan, held_out)
    data.token_bytes_of(plan.job, prepared)
    data.spell_of(plan.job, prepared)
    if prepared.evaluation is None:
        raise DataError(f"{plan.run_id} evaluates on nothing (its job has no data.eval); give --data")
    if change := data.describe_change(saved.meta["identity"], prepared.identity):
        raise DataError(
            f"the training data, from which comes how rows become samples, is not what step {saved.step} was trained on:"
            f" {change}; put it back"
        )
    return {
        "plan": plan.model_dump_json(),
        "prepared": prepared.model_dump_json(),
        "checkpoint": saved.path,
        "content": checkpoint.content_of(saved),  # another run may come to be called as a deleted one was
        "averaged": averaged,
    }


@contextmanager
def going_on(order: dict[str, Any], place: str) -> Iterator[dict[str, Any]]:
    """Measure by the order that is given, and go on with what an earlier measurement by the same order has put down in
    ``place``. What is put down goes when the block ends well.
    """
    of = hashlib.sha256(json.dumps(order, sort_keys=True).encode()).hexdigest()
    folder = f"{place}/evaluations/{of[:32]}"
    yield {**order, "kept": folder}
    store_at(folder).remove("")


def evaluation_of(
    order: Mapping[str, Any], saved: Checkpoint, name: str, metrics: Mapping[str, float]
) -> Evaluation:
    """What the ranks have measured, as a person is told it."""
    samples = Prepared.model_validate_json(order["prepared"]).eval_samples
    run = Plan.model_validate_json(order["plan"]).run_id
    return Evaluation(run=run, step=saved.step, data=name, samples=samples, metrics=dict(metrics))


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


def evaluating_plan(plan: Plan, workers: int) -> Plan:
    """The plan of a group that starts from a checkpoint and evaluates it, on devices like those that it was trained on."""
    job = plan.job
    changes: dict[str, Any] = {
        "training": job.training.model_copy(update={"compile": False}),
        "scaling": job.scaling.model_copy(update={"workers": workers}),
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


def _on_this_machine(plan: Plan, workers: int) -> Plan:
    """The same of whole models on CPUs, which read by themselves. What was trained in fp16, which CPUs do not compute in, is
    evaluated in fp32.
    """
    there = evaluating_plan(plan, workers)
    job = there.job
    precision = "fp32" if job.training.precision == "fp16" else job.training.precision
    changes: dict[str, Any] = {
        "training": job.training.model_copy(update={"precision": precision}),
        "strategy": DdpStrategy(),
        "scaling": job.scaling.model_copy(update={"gpus_per_worker": 0}),
        "data": job.data.model_copy(update={"reader": "worker"}),
    }
    return there.model_copy(update={"job": job.model_copy(update=changes)})


def _batches(rank: Rank, prepared: Prepared, first: int) -> Iterator[Batch]:
    stream = rank.open_eval(prepared)
    assert stream is not None
    for arrays in stream.batches(first):
        yield rank.to_device(rank.to_tensors(arrays))


def measure(order: Mapping[str, Any], is_leaving: Callable[[], bool] = lambda: False) -> dict[str, float]:
    """On each rank: the metrics over all ranks' shares.

    Args:
        order: of ``going_on``.
        is_leaving: whether this rank may be gone at any moment.
    """
    plan, prepared = (
        Plan.model_validate_json(order["plan"]),
        Prepared.model_validate_json(order["prepared"]),
    )
    averaged = order["averaged"]
    rank = assemble(plan)
    try:
        rank.load(checkpoint.checkpoint_at(order["checkpoint"]))
        classes = data.inputs_of(plan.job, prepared).classes
        sizes, spell = data.token_bytes_of(plan.job, prepared), data.spell_of(plan.job, prepared)
        asked = plan.job.objective.measured, classes, sizes, spell
        sums = KeptSums(
            rank.engine.device, order["kept"], seconds=_SECONDS_BETWEEN_KEPT, is_leaving=is_leaving
        )
        batches = _batches(rank, prepared, sums.batches)
        with rank.engine.averaged() if averaged else nullcontext():
            values = loop.evaluate(rank.engine, rank.objective, batches, *asked, sums=sums).values
        return {f"{OF_AVERAGES if averaged else ''}{name}": value for name, value in values.items()}
    finally:
        rank.close()
