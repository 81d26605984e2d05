"""What is done to named tensors: one visible table of kinds, and the contract each kind keeps.

A batch is a dict of numpy arrays whose first dimension is the sample; ``sample_id`` and ``sample_seed`` (int64)
are always in it. A transform is a pure function of (section, fitted statistics, batch): randomness only through
``sample_seed``, so that a sample looks the same whatever batch, worker or attempt it is read in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from orchestrator.errors import DataError
from orchestrator.section import Section

Batch = dict[str, np.ndarray]
"""Named arrays of one batch; the first dimension of each is the sample."""

Fitted = Mapping[str, Any]
"""What a transform learned from the training samples: JSON-able. Empty for one that learns nothing."""

TRANSFORMS: dict[str, str] = {
    "normalize": "orchestrator.data.transforms.scaling:NormalizeKind",
    "scale": "orchestrator.data.transforms.scaling:ScaleKind",
    "encode": "orchestrator.data.transforms.encoding:EncodeKind",
    "resize": "orchestrator.data.transforms.augmentation:ResizeKind",
    "random_crop": "orchestrator.data.transforms.augmentation:RandomCropKind",
    "random_flip": "orchestrator.data.transforms.augmentation:RandomFlipKind",
}
"""Kind of transform -> ``module:class`` of its ``TransformKind``, imported on use."""


class Fitter(Protocol):
    """Statistics of the training samples, gathered in one pass over them."""

    def update(self, batch: Batch) -> None:
        """See one batch, to which the transforms before this one were applied."""
        ...

    def result(self) -> dict[str, Any]:
        """What was learned, JSON-able."""
        ...


class TransformKind(Protocol):
    """What one kind of transform does. Without state: made anew from its class for each use."""

    training_only: bool
    """Left out when evaluating: augmentation."""
    keeps_type: bool
    """Moves values without computing with them, so that images may still be uint8 in 0..255; for all others they are
    float32 in 0..1."""

    def fitter(self, section: Any) -> Fitter | None:
        """A fresh fitter, or None where there is nothing to learn."""
        ...

    def apply(self, section: Any, fitted: Fitted, batch: Batch) -> Batch:
        """The transformed batch: a new dict; the given arrays are not written to. Raises DataError."""
        ...


def kind_of(section: Section) -> TransformKind:
    """The implementation of a transform's section."""
    module, name = TRANSFORMS[section.kind].split(":")  # type: ignore[attr-defined]
    kind: TransformKind = getattr(import_module(module), name)()
    return kind


def apply_all(
    sections: Sequence[Section], fitted: Sequence[Fitted], batch: Batch, *, training: bool
) -> Batch:
    """The batch after all transforms, in order. ``fitted`` has one entry for each section."""
    for section, learned in zip(sections, fitted, strict=True):
        kind = kind_of(section)
        if training or not kind.training_only:
            batch = kind.apply(section, learned, batch)
    return batch


def fit_all(sections: Sequence[Section], passes: Iterable[Iterable[Batch]]) -> list[dict[str, Any]]:
    """Fit each transform on the training samples, in order; a later one sees what the earlier ones did.

    Args:
        passes: yields one iteration over the training samples for each that is asked for. One pass fits every
            transform up to the next one whose tensor is still to be fitted by an earlier one.
    """
    fitted: list[dict[str, Any] | None] = [None if kind_of(s).fitter(s) else {} for s in sections]
    source = iter(passes)
    while None in fitted:
        ready = _fittable(sections, fitted)
        fitters = {index: kind_of(sections[index]).fitter(sections[index]) for index in ready}
        for batch in next(source):
            _observe(sections, fitted, fitters, batch)
        for index, fitter in fitters.items():
            assert fitter is not None
            fitted[index] = fitter.result()
    return [learned for learned in fitted if learned is not None]


def _fittable(sections: Sequence[Section], fitted: Sequence[dict[str, Any] | None]) -> list[int]:
    """Indexes of unfitted transforms whose input doesn't wait for another unfitted one."""
    blocked: set[str] = set()
    ready: list[int] = []
    for index, section in enumerate(sections):
        tensors = tensors_of(section)
        if blocked & tensors or "*" in blocked:
            blocked |= tensors
        elif fitted[index] is None:
            ready.append(index)
            blocked |= tensors
    return ready


def _observe(
    sections: Sequence[Section],
    fitted: Sequence[dict[str, Any] | None],
    fitters: Mapping[int, Fitter | None],
    batch: Batch,
) -> None:
    blocked: set[str] = set()
    for index, section in enumerate(sections):
        learned, tensors = fitted[index], tensors_of(section)
        if blocked & tensors or "*" in blocked:
            blocked |= tensors
        elif learned is not None:
            batch = kind_of(section).apply(section, learned, batch)
        else:
            fitter = fitters[index]
            assert fitter is not None
            fitter.update(batch)
            blocked |= tensors


def tensors_of(section: Section) -> set[str]:
    """The named tensors that a transform reads or writes: its fields ``tensor``, ``tensors``, ``into``; else all."""
    names: set[str] = set()
    for field in ("tensor", "tensors", "into"):
        value = getattr(section, field, None)
        names |= {value} if isinstance(value, str) else set(value or ())
    return names or {"*"}


def tensor_of(batch: Batch, name: str, kind: str) -> np.ndarray:
    """The named tensor. Raises DataError with the names there are."""
    if name not in batch:
        there = ", ".join(sorted(k for k in batch if not k.startswith("sample_")))
        raise DataError(f"data.transforms: {kind} names the tensor {name!r}, but the data makes {there}")
    return batch[name]
