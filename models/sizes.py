"""What a model costs, counted before it exists: it is built and run once without memory or arithmetic.

Tensors are fake, with shapes but no numbers, so a laptop counts a model of billions of parameters in seconds.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.models.configs import FamilyConfig, LoraSpec, ObjectiveConfig


@dataclass(frozen=True)
class Counts:
    """What planning needs to know of a model."""

    parameters: int
    """All parameters, averages of others included."""
    flops_per_sample: int
    """Floating-point operations (two for each multiply-add) of matrix products and convolutions in forward and
    backward of one sample, over all phases of a step; recomputation is not in it."""
    activation_elements_per_sample: int
    """Numbers kept for the backward of one sample, in the phase that keeps most."""
    parameter_sizes: tuple[tuple[str, int], ...]
    """Name and elements of each parameter, as ``initialize.freeze`` matches them."""
    beside: int | None = None
    """Parameters that ``initialize.lora`` trains, its adapters and what it names; None without it."""

    def to_json(self) -> str:
        """Text that ``from_json`` reads back."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Counts:
        """What ``to_json`` wrote. Raises ValueError, TypeError or KeyError where it is something else."""
        content = json.loads(text)
        content["parameter_sizes"] = tuple(
            (str(name), int(size)) for name, size in content["parameter_sizes"]
        )
        return Counts(**content)


UNCOUNTED = Counts(0, 0, 0, ())
"""Of a model that is counted where its run begins, since counting takes torch."""


def count(config: FamilyConfig, objective: ObjectiveConfig, lora: LoraSpec | None = None) -> Counts:
    """Count a family's model, with its adapters. ``config`` and ``objective`` hold no size that is yet to come from the
    data.

    Raises:
        SpecError: adapters find no place in it.
    """
    from orchestrator.models.counting import count_step

    return count_step(config, objective, lora)
