"""What is saved of a run, and what stays."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from orchestrator.section import Section
from orchestrator.spec.numbers import Positive


class KeepSpec(Section):
    """Which checkpoints stay."""

    last: Positive = 2
    """The newest ones."""
    best: Annotated[int, Field(ge=0)] = 1
    """The best ones by ``metric``."""
    metric: str = "val/loss"
    """An evaluation metric, named as it is shown."""
    mode: Literal["min", "max"] = "min"
    """Whether less or more of it is better."""


class CheckpointSpec(Section):
    """What is saved, and how often. Where is the cluster's to say."""

    every_steps: Positive | None = None
    """Steps between checkpoints. Default: a tenth of the run, and always at the end."""
    keep: KeepSpec = KeepSpec()
    """Retention."""
    asynchronous: bool = True
    """Copy the state aside and write in the background; the next save waits for the last."""
