"""Config of low-rank adapters, which are trained in the place of the weights that they are added to."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from orchestrator.models.configs.base import Count, Positive, Probability
from orchestrator.section import Section


class LoraSpec(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), as ``peft`` computes them (install ``trainwright[hf]``)."""

    rank: Count = 8
    """Numbers between an adapter's two matrices."""
    alpha: Positive | None = None
    """What an adapter adds is multiplied by ``alpha`` / ``rank``. Default: the rank."""
    dropout: Probability = 0.0
    """Share of an adapter's inputs that is left out."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    """Linear layers whose names match one of these patterns (``*`` as in a shell) get an adapter."""
    also_train: tuple[str, ...] = ()
    """Parameters whose names match one of these patterns are trained whole, such as a new head's."""

    @property
    def scale(self) -> float:
        """What an adapter's output is multiplied by."""
        return (self.alpha or self.rank) / self.rank
