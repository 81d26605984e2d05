"""What one worker holds at most, by what holds it: measured before anything runs, on tensors without memory."""

from __future__ import annotations

from orchestrator.section import Section


class Peak(Section):
    """Bytes of one worker at the moment of a step at which it holds most."""

    parameters: int = 0
    """Parameters, or this worker's shards of them."""
    masters: int = 0
    """fp32 masters beside the parameters."""
    gradients: int = 0
    """Gradients."""
    moments: int = 0
    """Moments of the optimizer."""
    averages: int = 0
    """Moving averages of the weights."""
    gathered: int = 0
    """Parameters gathered from other workers for a while, and gradients on their way to them."""
    activations: int = 0
    """What the forward keeps for the backward, and what either makes on its way."""
    logits: int = 0
    """Scores over a vocabulary, and their gradients."""
    buckets: int = 0
    """What a strategy sets aside for communication."""
    batch: int = 0
    """The step's samples."""
    offloaded: int = 0
    """In the host's memory instead of the device's: in none of the parts above."""

    @property
    def total(self) -> int:
        """All of it on the device."""
        return sum(getattr(self, part) for part in PARTS)


PARTS = (
    "parameters",
    "masters",
    "gradients",
    "moments",
    "averages",
    "gathered",
    "activations",
    "logits",
    "buckets",
    "batch",
)
"""Parts on the device, in the order in which they are shown."""
