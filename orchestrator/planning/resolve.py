"""What a job leaves to its family and its data: the objective, and the sizes of the model."""

from __future__ import annotations

from pydantic import ValidationError

from orchestrator.errors import SpecError
from orchestrator.models.configs import FamilyConfig, ObjectiveConfig, default_objective
from orchestrator.planning.plan import DataFacts, ResolvedJob
from orchestrator.spec.job import JobSpec
from orchestrator.spec.strategy import DdpStrategy

_MAY_EXCEED_DATA = ("outputs", "vocabulary")
"""Facts of which a model may have more than the data: classes and tokens that no sample has yet."""


def resolve(job: JobSpec, facts: DataFacts) -> ResolvedJob:
    """The job with its objective, or its family's own, and with the sizes that come from the data.

    Raises:
        SpecError: the family can't be trained with the objective, or the model not with what it asks for; a size is neither written
            nor known, or contradicts the data.
    """
    objective = _resolve_objective(job, facts)
    model = _resolve_model(job.model, objective, facts)
    if misfit := objective.misfit(model):
        raise SpecError(misfit)
    # which strategy auto means is decided from the plan of each that may be meant
    strategy = DdpStrategy() if job.strategy.kind == "auto" else job.strategy
    return ResolvedJob.model_validate(
        {**dict(job), "objective": objective, "model": model, "strategy": strategy}
    )


def _resolve_objective(job: JobSpec, facts: DataFacts) -> ObjectiveConfig:
    objective: ObjectiveConfig = job.objective or default_objective(job.model)
    if objective.kind not in job.model.OBJECTIVES:
        raise SpecError(
            f"objective.kind: family {job.model.family} can't be trained with {objective.kind};"
            f" it can with {', '.join(job.model.OBJECTIVES)}"
        )
    facts = facts.model_copy(update={"dims": {**facts.dims, **job.model.own_facts}})
    sizes = _from_data("objective", objective, objective.FROM_DATA, tuple(objective.FROM_DATA), facts)
    return type(objective).model_validate({**objective.model_dump(), **sizes})


def _resolve_model(model: FamilyConfig, objective: ObjectiveConfig, facts: DataFacts) -> FamilyConfig:
    model = model.with_tensors(facts.tensors)
    sizes = _from_data("model", model, model.FROM_DATA, model.needed(objective), facts)
    longest = facts.dims.get("context")
    if model.max_tokens is not None and longest is not None and longest > model.max_tokens:
        raise SpecError(
            f"model.context is {model.max_tokens}, but data.prepare.context makes sequences of {longest} tokens;"
            " make them equal"
        )
    try:
        return type(model).model_validate({**model.model_dump(exclude={"size"}), **sizes})
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
    sizes: dict[str, object] = {}
    for field, fact in from_data.items():
        written, known = getattr(config, field), facts.fact(fact)
        if written is None and known is not None:
            sizes[field] = known
        elif written is None and field in needed:
            raise SpecError(
                f"{section}.{field}: can't be known from the data ({fact}); write it in the job file"
            )
        elif field in needed and known is not None and _contradicts(fact, written, known):
            raise SpecError(
                f"{section}.{field}: is {written}, but the data has {known} ({fact});"
                " leave it out to take the data's"
            )
    return sizes


def _contradicts(fact: str, written: object, known: object) -> bool:
    if fact in _MAY_EXCEED_DATA and isinstance(written, int) and isinstance(known, int):
        return written < known
    return written != known
