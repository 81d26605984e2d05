"""Fit transforms on the training samples, in as few passes over them as their order allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.data.transforms import Batch, Fitter, kind_of
from orchestrator.spec.transforms import Transform


def fit_all(sections: Sequence[Transform], passes: Iterable[Iterable[Batch]]) -> list[dict[str, Any]]:
    """Fit each transform on the training samples, in order; a later one sees what the earlier ones did.

    Args:
        passes: yields one iteration over the training samples for each that is asked for. One pass fits the first
            unfitted transform of every tensor.
    """
    fitted: list[dict[str, Any] | None] = [{} if kind_of(s).fitter(s) is None else None for s in sections]
    source = iter(passes)
    while None in fitted:
        fitters = _next_fitters(sections, fitted)
        for batch in next(source):
            _observe(sections, fitted, fitters, batch)
        for index, fitter in fitters.items():
            fitted[index] = fitter.result()
    return [learned for learned in fitted if learned is not None]


def _next_fitters(
    sections: Sequence[Transform], fitted: Sequence[dict[str, Any] | None]
) -> dict[int, Fitter]:
    """A fitter for the first unfitted transform of each tensor, by the transform's index."""
    fitters: dict[int, Fitter] = {}
    waiting: set[str] = set()
    for index, section in enumerate(sections):
        if not waiting.isdisjoint(section.reads):
            waiting.add(section.tensor)
        elif fitted[index] is None:
            fitter = kind_of(section).fitter(section)
            assert fitter is not None, "fitted from the beginning otherwise"
            fitters[index] = fitter
            waiting.add(section.tensor)
    return fitters


def _observe(
    sections: Sequence[Transform],
    fitted: Sequence[dict[str, Any] | None],
    fitters: Mapping[int, Fitter],
    batch: Batch,
) -> None:
    """Show a batch to the fitters, each after the transforms before its own."""
    waiting: set[str] = set()
    for index, section in enumerate(sections):
        learned = fitted[index]
        if not waiting.isdisjoint(section.reads):
            waiting.add(section.tensor)
            continue
        if learned is not None:
            batch = kind_of(section).apply(section, learned, batch)
        else:
            fitters[index].update(batch)
            waiting.add(section.tensor)
