"""Scores of texts beside the texts that they should be: BLEU (Papineni et al. 2002, doi:10.3115/1073083.1073135) and chrF (Popovic
2015, doi:10.18653/v1/W15-3049), of all texts together, as sacrebleu (Post 2018, arXiv:1804.08771) has them by default.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from orchestrator.errors import SpecError

TEXT_SCORES = ("bleu", "chrf")
"""Metrics that go by texts."""
WRITTEN = "written"
"""The rows that they come from: tokens that were written and tokens that should be, as many of each, ended by end tokens, and
whether the row is a sample."""

Spell = Callable[[Sequence[int]], str]
"""What tokens that were written stand for, up to their end token."""


def scored(asked: Collection[str], rows: np.ndarray[Any, Any], spell: Spell) -> dict[str, float]:
    """Those that are asked for, 0 to 100.

    Raises:
        SpecError: sacrebleu is not installed.
    """
    metrics = sacrebleu_metrics()
    rows = rows[rows[:, -1] > 0]
    longest = rows.shape[1] // 2
    written, wanted = (
        [spell(row.tolist()) for row in side] for side in (rows[:, :longest], rows[:, longest:-1])
    )
    measures = {"bleu": metrics.BLEU, "chrf": metrics.CHRF}
    return {
        name: float(measures[name]().corpus_score(written, [wanted]).score)
        for name in TEXT_SCORES
        if name in asked
    }


def sacrebleu_metrics() -> Any:
    """The module ``sacrebleu.metrics``. Raises SpecError where it is not installed."""
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise SpecError(
            "objective.metrics: bleu and chrf are computed by sacrebleu, which is not installed; install trainwright[text],"
            " here and on the workers"
        ) from error
    return metrics
