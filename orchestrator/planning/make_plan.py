"""make_plan: what a person wants -> what will happen. Pure: no file, no network, no clock."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import SpecError
from orchestrator.models.configs import DEFAULT_OBJECTIVES, FamilyConfig, ObjectiveConfig, ObjectiveSection
from orchestrator.models.sizes import Counts
from orchestrator.planning.deepspeed_config import deepspeed_config, describe_choices
from orchestrator.planning.memory import estimate_memory
from orchestrator.planning.plan import DataFacts, Plan
from orchestrator.section import format_bytes
from orchestrator.spec.job import JobSpec, ZeroStrategy


def resolve_objective(job: JobSpec, facts: DataFacts) -> ObjectiveConfig:
    """The job's objective, or its family's own, with what comes from the data filled in.

    Raises:
        SpecError: the family can't be trained with it, or the data doesn't say what it needs.

    """
    own: TypeAdapter[ObjectiveConfig] = TypeAdapter(ObjectiveSection)
    objective: ObjectiveConfig = job.objective or own.validate_python(
        {"kind": DEFAULT_OBJECTIVES[job.model.family]}
    )
    if objective.kind not in job.model.OBJECTIVES:
        raise SpecError(
            f"objective.kind: family {job.model.family} can't be trained with {objective.kind};"
            f" it can with {', '.join(job.model.OBJECTIVES)}"
        )
    found = _from_data("objective", objective, objective.FROM_DATA, tuple(objective.FROM_DATA), facts)
    return type(objective).model_validate({**objective.model_dump(), **found})


def resolve_model(job: JobSpec, objective: ObjectiveConfig, facts: DataFacts) -> FamilyConfig:
    """The family's config with the sizes that come from the data filled in.

    Raises:
        SpecError: a size that the objective needs is neither written nor known, or contradicts the data.

    """
    model = job.model
    found = _from_data("model", model, model.FROM_DATA, model.needed(objective), facts)
    context, longest = getattr(model, "context", None), facts.dims.get("context")
    if context is not None and longest is not None and longest > context:
        raise SpecError(
            f"model.context is {context}, but data.prepare.context makes sequences of {longest} tokens; make them equal"
        )
    try:
        return type(model).model_validate({**model.model_dump(exclude={"size"}), **found})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in ("model", *first["loc"]))
        raise SpecError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None


def _from_data(
    section: str,
    config: FamilyConfig | ObjectiveConfig,
    from_data: dict[str, str],
    needed: tuple[str, ...],
    facts: DataFacts,
) -> dict[str, object]:
    """Values of the fields that are not written, from the data."""
    found: dict[str, object] = {}
    for field, fact in from_data.items():
        written, known = getattr(config, field), facts.fact(fact)
        if written is None and known is not None:
            found[field] = known
        elif written is None and field in needed:
            raise SpecError(
                f"{section}.{field}: can't be known from the data ({fact}); write it in the job file"
            )
        elif field in needed and known is not None and written != known:
            may_be_more = (
                fact in ("outputs", "vocabulary") and isinstance(known, int) and isinstance(written, int)
            )
            if not may_be_more or written < known:
                raise SpecError(
                    f"{section}.{field}: is {written}, but the data has {known} ({fact}); leave it out to take the data's"
                )
    return found


def make_plan(
    job: JobSpec,
    facts: DataFacts,
    counts: Counts,
    *,
    version: str,
    run_id: str,
    base_dir: str,
    storage: str,
    cache: str,
    tracking_uri: str,
) -> Plan:
    """Decide everything.

    Args:
        job: with its model and objective resolved (``resolve_model``, ``resolve_objective``).
        facts: what is known of the data.
        counts: of the resolved model.

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
        version=version,
        run_id=run_id,
        job=job,
        base_dir=base_dir,
        storage=storage,
        cache=cache,
        tracking_uri=tracking_uri if job.tracking.kind == "mlflow" else "",
        world_size=world_size,
        micro_batch_size=micro,
        accumulation_steps=share // micro,
        total_steps=total_steps,
        train_samples=train_samples,
        eval_samples=facts.eval_samples or 0,
        evaluate_every=evaluate_every,
        sample_every=training.sample_every or evaluate_every or tenth,
        checkpoint_every=job.checkpoint.every_steps or tenth,
        parameters=counts.parameters,
        trainable_parameters=trainable,
        flops_per_sample=counts.flops_per_sample,
        memory=memory,
        notes=tuple(notes),
    )
