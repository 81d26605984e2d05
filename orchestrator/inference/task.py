"""What a prediction is made of: decided once, before any worker starts, and carried to all of them as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from orchestrator.checkpoint import Checkpoint
from orchestrator.data import Inputs
from orchestrator.data.sources.contents import identified
from orchestrator.data.sources.formats import index_source
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.kinds import source_at
from orchestrator.errors import DataError, SpecError
from orchestrator.own_code import OwnCode
from orchestrator.planning.plan import Plan
from orchestrator.section import Section
from orchestrator.telemetry.answers import TOKENS, WRITERS

_NO_ANSWERS = {
    "adversarial": "it makes samples from noise and answers no rows",
    "masked_lm": "it fills in hidden tokens and says nothing of a text; train another model from its weights"
    " (initialize.weights)",
}
"""Kinds of objective whose models make no predictions, and why."""


class PredictTask(Section):
    """All that a worker needs to write any part of the predictions."""

    run_id: str
    """The run that trained the model."""
    step: int
    """Of the checkpoint."""
    attempt: int
    """Of the checkpoint."""
    checkpoint: str
    """Its folder."""
    averaged: bool
    """Whether by the moving averages of the weights."""
    inputs: Inputs
    """How rows become what the model takes."""
    code: dict[str, str]
    """A person's own files that the model is made by, see ``own_code.OwnCode``; empty for a family of ours."""
    index: SourceIndex
    """The rows, identified."""
    kept: tuple[str, ...]
    """Columns of the data that stand beside the predictions."""
    output: str
    """The folder that is written to, a path or URI."""
    batch_rows: int
    """Rows of one forward."""
    tokens: int
    """That a language model writes at most."""
    seed: int
    """Of what a language model draws."""
    temperature: float
    """At which it draws; 0: the likeliest token each time."""
    device: str = "cpu"
    """What a worker computes on, as torch names it."""

    @property
    def parts(self) -> tuple[int, ...]:
        """Numbers of the files: one for each group of rows; of series one, since a forecast follows all rows."""
        if self.inputs.series:
            return (0,)
        return tuple(group for group, rows in enumerate(self.index.group_rows.tolist()) if rows)


def make_task(
    plan: Plan,
    saved: Checkpoint,
    inputs: Inputs,
    code: OwnCode,
    path: str,
    output: str,
    *,
    cache: str,
    keep: Sequence[str] | None = None,
    tokens: int | None = None,
    seed: int | None = None,
    temperature: float | None = None,
    averaged: bool = False,
    device: str = "cpu",
) -> PredictTask:
    """Look at the data, and refuse what can't be predicted before anything starts.

    Args:
        plan: of the run.
        saved: the checkpoint.
        inputs: how rows become what its model takes.
        code: that its model is made by.
        path: absolute, of the data.
        output: absolute, of the folder to write to.
        cache: where what is found of the data is kept.
        keep: columns of the data to keep. Default: all that hold one number, text, date or the like.
        tokens: that a language model writes at most; other models take none.
        seed: of what it draws.
        temperature: at which it draws, see ``generation.continued``. Default: 1, as it was trained.
        averaged: by the moving averages of the weights.
        device: what a worker computes on.

    Raises:
        SpecError: the model makes no predictions, or is none that writes text, or has no averages.
        DataError: there is no such data, or it lacks a column.
    """
    refuse_unanswerable(plan, averaged=averaged)
    kind = plan.job.objective.kind
    if not inputs.columns:
        raise SpecError(f"{plan.run_id}: its model reads no columns, so no rows can be given to it")
    writes = kind in WRITERS and inputs.text_column is not None
    if not writes and (tokens, seed, temperature) != (None, None, None):
        raise SpecError(
            f"--tokens, --seed and --temperature are for models that write text; {plan.run_id} was trained with {kind}"
        )
    if (seed, temperature) != (None, None) and (beams := getattr(plan.job.objective, "beams", 1)) > 1:
        raise SpecError(
            f"--seed and --temperature: {plan.run_id} was trained with objective.beams: {beams} and writes what a beam search finds; it"
            " draws none"
        )
    if (seed, temperature) != (None, None) and kind == "sequence_to_sequence":
        raise SpecError(
            f"--seed and --temperature: {plan.run_id} was trained with {kind} and writes the likeliest tokens; it draws none"
        )
    if temperature is not None and not 0 <= temperature < math.inf:
        raise SpecError(f"--temperature {temperature:g}: must be 0 or a number above it")
    sources = plan.job.data.train
    like = sources[0] if isinstance(sources, tuple) else sources
    index = index_source(source_at(path, like), "/", cache)
    if not index.rows:
        raise DataError(f"{path}: has no rows")
    _refuse_missing(index, inputs)
    return PredictTask(
        run_id=plan.run_id,
        step=saved.step,
        attempt=saved.attempt,
        checkpoint=saved.path,
        averaged=averaged,
        inputs=inputs,
        code=dict(code.files),
        index=identified(index, cache),
        kept=() if inputs.series else _kept(index, keep),
        output=output,
        batch_rows=plan.micro_batch_size,
        tokens=TOKENS if tokens is None else tokens,
        seed=seed or 0,
        temperature=1.0 if temperature is None else temperature,
        device=device,
    )


def refuse_unanswerable(plan: Plan, *, averaged: bool) -> None:
    """Raises SpecError where a run's model makes no predictions, or has no averages that are asked for."""
    kind = plan.job.objective.kind
    if kind in _NO_ANSWERS:
        raise SpecError(f"{plan.run_id} was trained with {kind}: {_NO_ANSWERS[kind]}")
    if averaged:
        refuse_without_averages(plan)


def refuse_without_averages(plan: Plan) -> None:
    """Raises SpecError where a run keeps no averages of its weights."""
    if plan.job.training.ema is None:
        raise SpecError(f"--ema: {plan.run_id} keeps no averages of its weights; train with training.ema")


def _refuse_missing(index: SourceIndex, inputs: Inputs) -> None:
    there = set(index.schema.names)
    lacking = [name for name in inputs.columns if name not in there]
    if lacking:
        raise DataError(
            f"{index.root}: has no column {lacking[0]!r}, which the model reads; it has {', '.join(index.schema.names[:12])}"
        )


def _kept(index: SourceIndex, asked: Sequence[str] | None) -> tuple[str, ...]:
    if index.lists_files:
        there = ["path"]
    elif asked is None:
        there = [field.name for field in index.schema if _is_plain(field.type)]
    else:
        there = index.schema.names
    if lacking := [name for name in asked or () if name not in there]:
        raise DataError(
            f"--keep {lacking[0]}: {index.root} has no such column; it has {', '.join(there[:12])}"
        )
    return tuple(there if asked is None else asked)


def _is_plain(kind: Any) -> bool:
    """One number, text, date or the like: no pictures, lists or structs."""
    nested = pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType)
    bytes_ = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return not (nested or bytes_ or pa.types.is_null(kind))
