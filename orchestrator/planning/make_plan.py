"""make_plan: what a person wants -> what will happen. Pure: no file, no network, no clock."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

from orchestrator.errors import SpecError
from orchestrator.models.sizes import Counts
from orchestrator.planning.deepspeed_config import deepspeed_config, describe_choices
from orchestrator.planning.memory import estimate_memory
from orchestrator.planning.plan import DataFacts, Plan, ResolvedJob, RunContext
from orchestrator.section import format_bytes
from orchestrator.spec.job import ZeroStrategy


def make_plan(
    job: ResolvedJob,
    facts: DataFacts,
    counts: Counts,
    context: RunContext,
) -> Plan:
    """Decide everything.

    Args:
        job: as ``resolve`` made it.
        facts: what is known of the data.
        counts: of the job's model.
        context: the run it is for.

    Raises:
        SpecError: numbers that don't fit together, each named.

    """
    training, world_size = job.training, job.scaling.workers
    notes: list[str] = []

    share, rest = divmod(training.global_batch_size, world_size)
    if rest:
        lower = max(1, training.global_batch_size // world_size) * world_size
        raise SpecError(
            f"training.global_batch_size {training.global_batch_size} can't be divided among scaling.workers"
            f" {world_size}; {lower} or {lower + world_size} can"
        )
    micro = training.micro_batch_size or share
    if share % micro:
        divisors = [d for d in range(1, share + 1) if share % d == 0]
        near = min(divisors, key=lambda d: abs(d - micro))
        raise SpecError(
            f"training.micro_batch_size {micro} does not divide a worker's share of {share}"
            f" ({training.global_batch_size} over {world_size} workers); {near} does"
        )

    train_samples = facts.train_samples or 0
    if training.max_steps is not None:
        total_steps = training.max_steps
    elif facts.train_samples is None:
        raise SpecError(
            "training.epochs: the number of samples isn't known before the data is prepared; give max_steps"
        )
    else:
        whole = math.ceil if job.data.tail == "pad" else math.floor
        steps_per_epoch = whole(train_samples / training.global_batch_size)
        assert training.epochs is not None
        total_steps = math.ceil(steps_per_epoch * training.epochs)
        notes.append(
            f"{training.epochs:g} epochs of {train_samples} samples are {total_steps} steps"
            f" of {training.global_batch_size}"
        )
    if (
        facts.train_samples is not None
        and job.data.tail == "drop"
        and train_samples < training.global_batch_size
    ):
        raise SpecError(
            f"data.tail: drop leaves nothing of {train_samples} training samples in batches of"
            f" {training.global_batch_size}; use pad, or a smaller training.global_batch_size"
        )
    if training.schedule.warmup_steps > total_steps:
        raise SpecError(
            f"training.schedule.warmup_steps {training.schedule.warmup_steps} is more than the run's {total_steps} steps"
        )
    if training.precision == "fp16" and not job.scaling.gpus_per_worker:
        raise SpecError("training.precision: fp16 needs a GPU (scaling.gpus_per_worker: 1); use bf16 or fp32")
    strategy = job.strategy
    if strategy.kind == "zero" and strategy.offload.parameters == "nvme" and training.precision == "fp32":
        # it keeps them in 16 bits whatever the model has, and so trains another model than the one asked for
        raise SpecError(
            "strategy.offload.parameters: DeepSpeed keeps parameters on nvme in 16 bits, and training.precision is fp32;"
            " use precision bf16, or parameters: cpu"
        )
    if job.scaling.accelerator_type and not job.scaling.gpus_per_worker:
        raise SpecError("scaling.accelerator_type is given, but scaling.gpus_per_worker is 0")

    tenth = max(1, total_steps // 10)
    evaluates = job.data.eval is not None
    if training.evaluate_every and not evaluates:
        raise SpecError("training.evaluate_every is given, but data.eval is not")
    if training.sample_every and not evaluates:
        raise SpecError(
            "training.sample_every is given, but data.eval is not: samples are made from its batches"
        )
    evaluate_every = (training.evaluate_every or tenth) if evaluates else 0

    trainable = counts.parameters
    if job.initialize.freeze:
        names = counts.names()
        trainable = sum(
            size for name, size in names if not any(fnmatchcase(name, p) for p in job.initialize.freeze)
        )
        if trainable == 0:
            raise SpecError(
                "initialize.freeze: the patterns freeze every parameter; nothing would be trained"
            )
        if trainable == counts.parameters:
            raise SpecError(
                f"initialize.freeze: no parameter matches {', '.join(job.initialize.freeze)};"
                f" names are like {', '.join(name for name, _ in names[:3])}"
            )

    if isinstance(job.strategy, ZeroStrategy):
        config = deepspeed_config(
            job,
            world_size=world_size,
            micro_batch_size=micro,
            accumulation_steps=share // micro,
            parameters=counts.parameters,
        )
        notes.append(describe_choices(config))
        if training.compile:
            raise SpecError(
                "training.compile: strategy zero can't be compiled; use strategy ddp or fsdp, or compile: false"
            )

    memory = estimate_memory(
        job,
        world_size=world_size,
        micro_batch_size=micro,
        parameters=counts.parameters,
        trainable=trainable,
        activation_elements=counts.activation_elements_per_sample,
    )
    if (
        job.scaling.memory_per_worker
        and not job.scaling.gpus_per_worker
        and memory.total > job.scaling.memory_per_worker
    ):
        notes.append(
            f"warning: the model's state and activations need about {format_bytes(memory.total)} a worker,"
            f" but scaling.memory_per_worker is {format_bytes(job.scaling.memory_per_worker)}"
        )
    return Plan(
        **context.model_dump(),
        job=job,
        world_size=world_size,
        micro_batch_size=micro,
        accumulation_steps=share // micro,
        total_steps=total_steps,
        train_samples=train_samples,
        eval_samples=facts.eval_samples or 0,
        evaluate_every=evaluate_every,
        sample_every=(training.sample_every or evaluate_every) if evaluates else 0,
        checkpoint_every=job.checkpoint.every_steps or tenth,
        parameters=counts.parameters,
        trainable_parameters=trainable,
        flops_per_sample=counts.flops_per_sample,
        memory=memory,
        notes=tuple(notes),
    )
