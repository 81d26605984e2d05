"""make_plan: what a person wants -> what will happen. Pure: no file, no network, no clock."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.models.sizes import UNCOUNTED, Counts
from orchestrator.planning.batch import BatchSplit
from orchestrator.planning.deepspeed_config import deepspeed_config, describe_choices
from orchestrator.planning.fit import (
    check_averages,
    check_best,
    check_fit,
    check_measured,
    check_optimizers,
    check_phases,
    check_stop_early,
    memory_warning,
)
from orchestrator.planning.memory import estimate_memory
from orchestrator.planning.plan import DataFacts, GroupSize, Plan, ResolvedJob, RunContext
from orchestrator.planning.shard_group import check_shard_group
from orchestrator.planning.sizes import note_of_sizes, possible_sizes
from orchestrator.planning.steps import choose_cadence, count_steps
from orchestrator.planning.trainable import count_trainable, note_of_adapters


def make_plan(job: ResolvedJob, facts: DataFacts, counts: Counts, context: RunContext) -> Plan:
    """Decide everything.

    Args:
        job: as ``resolve`` made it.
        facts: what is known of the data.
        counts: of the job's model.
        context: the run it is for.

    Raises:
        SpecError: numbers that don't fit together, each named.

    """
    training, sizes = job.training, possible_sizes(job)
    workers, batch = max(sizes.items())
    total_steps = count_steps(training, job.data.tail, facts.train_samples)
    check_fit(job)
    check_averages(job)
    check_optimizers(job)
    check_shard_group(job)
    check_measured(job)
    check_best(job)
    check_stop_early(job)
    check_phases(job)
    cadence = choose_cadence(job, total_steps)
    trainable = 0 if counts == UNCOUNTED else count_trainable(counts, job.initialize.freeze)
    groups = _groups(job, sizes, counts, trainable)
    return Plan(
        **context.model_dump(),
        job=job,
        world_size=workers,
        micro_batch_size=batch.micro_batch_size,
        accumulation_steps=batch.accumulation_steps,
        total_steps=total_steps,
        train_samples=facts.train_samples or 0,
        eval_samples=facts.eval_samples or 0,
        evaluate_every=cadence.evaluate_every,
        sample_every=cadence.sample_every,
        checkpoint_every=cadence.checkpoint_every,
        parameters=counts.parameters,
        trainable_parameters=trainable,
        flops_per_sample=counts.flops_per_sample,
        memory=groups[-1].memory,
        sizes=groups if job.scaling.range else (),
        notes=tuple(_notes(job, facts, counts, sizes, total_steps, groups)),
    )


def with_counts(plan: Plan, counts: Counts) -> Plan:
    """A plan of a machine where its model could not be counted, with what it counts.

    Raises:
        SpecError: ``initialize.freeze`` freezes nothing, or everything.

    """
    trainable = count_trainable(counts, plan.job.initialize.freeze)
    groups = _groups(plan.job, possible_sizes(plan.job), counts, trainable)
    counted = {
        "parameters": counts.parameters,
        "trainable_parameters": trainable,
        "flops_per_sample": counts.flops_per_sample,
        "memory": groups[-1].memory,
        "sizes": groups if plan.job.scaling.range else (),
    }
    return plan.model_copy(update=counted)


def _groups(
    job: ResolvedJob, sizes: dict[int, BatchSplit], counts: Counts, trainable: int
) -> tuple[GroupSize, ...]:
    return tuple(
        GroupSize(
            workers=number,
            micro_batch_size=split.micro_batch_size,
            accumulation_steps=split.accumulation_steps,
            memory=estimate_memory(
                job,
                world_size=number,
                micro_batch_size=split.micro_batch_size,
                parameters=counts.parameters,
                trainable=trainable,
                activation_elements=counts.activation_elements_per_sample,
            ),
        )
        for number, split in sizes.items()
    )


def _notes(
    job: ResolvedJob,
    facts: DataFacts,
    counts: Counts,
    sizes: dict[int, BatchSplit],
    total_steps: int,
    groups: tuple[GroupSize, ...],
) -> Iterator[str]:
    """What was chosen that the job file does not say.

    Raises:
        SpecError: raw DeepSpeed keys contradict the job file.
    """
    yield from facts.notes
    if (adapters := note_of_adapters(counts, job.initialize)) is not None:
        yield adapters
    if job.training.epochs is not None:
        yield (
            f"{job.training.epochs:g} epochs of {facts.train_samples} samples are {total_steps} steps"
            f" of {job.training.global_batch_size}"
        )
    if job.strategy.kind != "ddp" and job.strategy.shard_group is not None:
        yield f"strategy.shard_group: {max(sizes)} workers in groups of {job.strategy.shard_group}"
    if job.scaling.range:
        yield note_of_sizes(job, sizes)
    if job.strategy.kind == "zero":
        configs = [
            deepspeed_config(
                job,
                world_size=workers,
                micro_batch_size=batch.micro_batch_size,
                accumulation_steps=batch.accumulation_steps,
                parameters=counts.parameters,
            )
            for workers, batch in sizes.items()
        ]
        yield describe_choices(configs[-1])
    warning = memory_warning(job.scaling, max((one.memory for one in groups), key=lambda one: one.total))
    if warning is not None:
        yield warning
