"""How many parameters are trained, and how many are kept as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from orchestrator.errors import SpecError
from orchestrator.models.sizes import Counts
from orchestrator.spec.job import InitializeSpec


def count_trainable(counts: Counts, freeze: Sequence[str]) -> int:
    """Parameters whose names match none of the patterns; with adapters, what is trained beside the model.

    Raises:
        SpecError: the patterns freeze nothing, or everything.
    """
    if counts.beside is not None:
        return counts.beside
    if not freeze:
        return counts.parameters
    names = counts.parameter_sizes
    trainable = sum(size for name, size in names if not any(fnmatchcase(name, p) for p in freeze))
    if trainable == 0:
        raise SpecError("initialize.freeze: the patterns freeze every parameter; nothing would be trained")
    if trainable == counts.parameters:
        raise SpecError(
            f"initialize.freeze: no parameter matches {', '.join(freeze)};"
            f" names are like {', '.join(name for name, _ in names[:3])}"
        )
    return trainable


def note_of_adapters(counts: Counts, start: InitializeSpec) -> str | None:
    """What is trained in the place of the model, in a sentence; None where it is the model itself."""
    if start.lora is None or counts.beside is None:
        return None
    layers = sum(name.endswith(".lora_A.default.weight") for name, _ in counts.parameter_sizes)
    base = "" if start.weights else "; without initialize.weights the model below is what the seed draws"
    return (
        f"initialize.lora: adapters of rank {start.lora.rank} on {layers} layers; {counts.beside:,} parameters are trained,"
        f" {counts.parameters - counts.beside:,} stay as they are and are in no checkpoint{base}"
    )
