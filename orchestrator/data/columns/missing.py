"""What a model or its objective takes and the data does not make: which section mends it."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import TypeAdapter

from orchestrator.errors import DataError, SpecError
from orchestrator.models.configs import (
    FamilyConfig,
    ObjectiveConfig,
    ObjectiveSection,
    default_objective,
)
from orchestrator.spec.job import JobSpec

TARGETS: dict[str, dict[str, str]] = {
    "classification": {"label": "int"},
    "regression": {"label": "float"},
    "binary": {"label": "int"},
    "multilabel": {"label": "int"},
    "token_classification": {"label": "int"},
    "forecasting": {"future": "float"},
    "ctc": {"text": "text"},
    "causal_lm": {"length": "int", "answer_mask": "int"},
    "masked_lm": {"word": "int"},
    "sequence_to_sequence": {"target": "int", "target_length": "int"},
}
"""Kind of objective -> the tensors of the source that it takes beside the family's inputs, and their kind."""

_ON_DEMAND = ("word", "length", "target_length", "answer_mask")
"""Targets that only some data has."""
_ANY_COLUMN = {"features": '"*"'}
"""Tensor -> the columns that mostly make it."""
_FEWEST_TOKENS = 64

_LONG_NAME = 80
"""Characters of a column's name that a message shows."""


def model_tensors(job: JobSpec) -> dict[str, str]:
    """The tensors that the job's model and objective take: name -> ``float``, ``int`` or ``text``."""
    objective = job.objective or default_objective(job.model)
    inputs = {name: spec.kind for name, spec in job.model.input_tensors(objective).items()}
    own = {name: spec.kind for name, spec in objective.own_inputs.items()}
    targets = TARGETS.get(objective.kind, {})
    if objective.takes_missing_labels:  # no whole number says that there is none
        targets = {**targets, "label": "float"}
    return {**inputs, **own, **targets}


def missing_tensors(job: JobSpec, made: Collection[str]) -> list[str]:
    """Of the tensors that the job can't train without, those that are not made."""
    return _missing(job.model, job.objective or default_objective(job.model), made)


def refuse_missing(job: JobSpec, made: Collection[str], root: str, columns: Collection[str]) -> None:
    """Refuse data that lacks what the job takes.

    Args:
        made: tensors.
        root: where the data is.
        columns: what there is.

    Raises:
        SpecError: ``data.prepare`` or ``objective`` is what is missing.
        DataError: columns must be named.
    """
    objective = job.objective or default_objective(job.model)
    missing = _missing(job.model, objective, made)
    if not missing:
        return
    family, there = job.model.family, {*made, *columns}
    if fitting := [
        kind
        for kind in job.model.OBJECTIVES
        if kind != "custom" and not _missing(job.model, _of(kind), there)
    ]:
        raise SpecError(
            f"objective: {family} is trained with {objective.kind}, which takes {_listed(missing)}, and the data"
            f" makes {_listed(sorted(there))}; give objective: {{kind: {' or '.join(fitting)}}}"
        )
    if job.data.prepare is None and (section := _preparation(job.model, objective, missing)):
        raise SpecError(
            f"data.prepare: {family} with {objective.kind} takes {_listed(missing)}, which are made of the source's"
            f" rows first; add prepare: {section} under data (trainwright explain data.prepare)"
        )
    columns_section = ", ".join(f"{name}: {_ANY_COLUMN.get(name, 'COLUMN')}" for name in missing)
    raise DataError(
        f"{root}: nothing makes {_listed(missing)}, which {family} with {objective.kind} takes; say which columns do:"
        f" data.columns: {{{columns_section}}}; there are {_listed(list(columns))}"
    )


def _missing(model: FamilyConfig, objective: ObjectiveConfig, made: Collection[str]) -> list[str]:
    tensors = {**model.input_tensors(objective), **objective.own_inputs}
    inputs = [name for name, spec in tensors.items() if not spec.optional]
    targets = [name for name in TARGETS.get(objective.kind, ()) if name not in _ON_DEMAND]
    optional = {"features"} if "categories" in made else set()
    return [name for name in (*inputs, *targets) if name not in {*made, *optional}]


def _of(kind: str) -> ObjectiveConfig:
    adapter: TypeAdapter[ObjectiveConfig] = TypeAdapter(ObjectiveSection)
    return adapter.validate_python({"kind": kind})


def _preparation(model: FamilyConfig, objective: ObjectiveConfig, missing: Collection[str]) -> str:
    """A ``data.prepare`` to begin with; empty where none makes what is missing."""
    if objective.kind == "forecasting":
        return "{kind: windows, past: 96, horizon: 24}"
    if "tokens" not in missing:
        return ""
    context = model.max_tokens or _FEWEST_TOKENS
    if objective.kind == "sequence_to_sequence":
        columns = "source: COLUMN, target: COLUMN"
        return f"{{kind: pairs, {columns}, tokenizer: {{kind: bpe, vocabulary: 4096}}, context: {context}}}"
    if objective.kind in ("causal_lm", "masked_lm"):
        alone = "" if objective.kind == "causal_lm" else ", next_token: false"
        return f"{{kind: pack, tokenizer: {{kind: bpe, vocabulary: 4096}}, context: {context}{alone}}}"
    return (
        f"{{kind: tokenize, tokenizer: {{kind: words, vocabulary: 4000}}, context: {context}, label: COLUMN}}"
    )


def _listed(names: Collection[str]) -> str:
    shown = [name[:_LONG_NAME] for name in list(names)[:20]]
    return ", ".join(shown) + (" ..." if len(names) > len(shown) else "")
