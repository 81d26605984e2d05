"""What is asked of a trained model where its run's cluster answers it: a launch of its own, which trains nothing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.runs import RunId
from orchestrator.section import Section


class TrainedModel(Section):
    """One checkpoint of a run, wherever that lies."""

    run: RunId
    """The run that trained the model."""
    storage: str
    """Root of its files."""
    which: str = "newest"
    """``newest``, ``best``, the number of a step, or a checkpoint's folder."""
    averaged: bool = False
    """By the moving averages of its weights instead of them."""


class PredictQuestion(Section):
    """What it says of each row of some files."""

    kind: Literal["predict"] = "predict"
    of: TrainedModel
    """The model."""
    data: str
    """File, folder or pattern, as the cluster reads it."""
    output: str
    """Folder that is written to, as the cluster reaches it; empty: ``predictions`` beside the launch's own records."""
    keep: tuple[str, ...] | None = None
    """Columns of the data beside the predictions. Default: all that hold one number, text, date or the like."""
    tokens: int | None = None
    """That a language model writes at most."""
    seed: int | None = None
    """Of what it draws."""
    temperature: float | None = None
    """At which it draws."""


class EvaluateQuestion(Section):
    """Its metrics over some files."""

    kind: Literal["evaluate"] = "evaluate"
    of: TrainedModel
    """The model."""
    data: str | None = None
    """File, folder or pattern, as the cluster reads it. Default: what the run itself evaluates on."""
    metrics: tuple[str, ...] = ()
    """More than its training measures."""


Question = Annotated[PredictQuestion | EvaluateQuestion, Field(discriminator="kind")]
