"""How many parameters are trained, and how many are kept as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from orchestrator.errors import SpecError
from orchestrator.models.sizes import Counts


def count_trainable(counts: Counts, freeze: Sequence[str]) -> int:
    """Parameters whose names match none of the patterns.

    Raises:
        SpecError: the patterns freeze nothing, or everything.
    """
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
