"""What is done to named tensors: one visible table of kinds, and the contract each kind keeps.

A batch is a dict of numpy arrays whose first dimension is the sample; ``sample_id`` and ``sample_seed`` (int64)
are always in it. A transform is a pure function of (section, fitted statistics, batch): randomness only through
``sample_seed``, so that a sample looks the same whatever batch, worker or attempt it is read in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from orchestrator.errors import DataError
from orchestrator.registry import load
from orchestrator.spec.transforms import Transform

Batch = dict[str, np.ndarray]
"""Named arrays of one batch; the first dimension of each is the sample."""

Fitted = Mapping[str, Any]
"""What a transform learned from the training samples: JSON-able. Empty for one that learns nothing."""

TRANSFORMS: dict[str, str] = {
    "normalize": "orchestrator.data.transforms.scaling:NormalizeKind",
    "scale": "orchestrator.data.transforms.scaling:ScaleKind",
    "encode": "orchestrator.data.transforms.encoding:EncodeKind",
    "impute": "orchestrator.data.transforms.imputing:ImputeKind",
    "drop": "orchestrator.data.transforms.imputing:DropKind",
    "date": "orchestrator.data.transforms.dates:DateKind",
    "clip": "orchestrator.data.transforms.scaling:ClipKind",
    "log": "orchestrator.data.transforms.scaling:LogKind",
    "quantile": "orchestrator.data.transforms.scaling:QuantileKind",
    "join": "orchestrator.data.transforms.scaling:JoinKind",
    "resize": "orchestrator.data.transforms.augmentation:ResizeKind",
    "random_crop": "orchestrator.data.transforms.augmentation:RandomCropKind",
    "random_flip": "orchestrator.data.transforms.augmentation:RandomFlipKind",
    "resample": "orchestrator.data.transforms.signals:ResampleKind",
    "pad": "orchestrator.data.transforms.signals:PadKind",
    "crop": "orchestrator.data.transforms.signals:CropKind",
    "mel": "orchestrator.data.transforms.spectrograms:MelKind",
    "spell": "orchestrator.data.transforms.spelling:SpellKind",
    "spec_augment": "orchestrator.data.transforms.spectrograms:SpecAugmentKind",
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

    def sizes(self, section: Any, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """Sizes of the model that follow from what was learned (``outputs``, ``cardinalities``); empty for most."""
        ...


class SampleFault(DataError):
    """A value that a transform can't use. The message begins with a verb: who knows where samples lie puts the place, and
    the column, before it.
    """

    def __init__(self, message: str, sample: int = -1, tensor: str = "", column: int = 0) -> None:
        super().__init__(message)
        self.sample, self.tensor, self.column = sample, tensor, column


def sample_fault(message: str, batch: Batch, tensor: str, wrong: np.ndarray) -> SampleFault:
    """The fault of the first wrong value.

    Args:
        wrong: bool, of the tensor's shape.
    """
    columns = wrong.reshape(len(wrong), -1)
    row = int(columns.any(axis=1).argmax())
    sample = int(batch["sample_id"][row]) if "sample_id" in batch else row
    return SampleFault(message, sample, tensor, int(columns[row].argmax()))


def kind_of(section: Transform) -> TransformKind:
    """The implementation of a transform's section."""
    kind: TransformKind = load(TRANSFORMS, section.kind, "transform")()
    return kind


def apply_all(
    sections: Sequence[Transform], fitted: Sequence[Fitted], batch: Batch, *, training: bool
) -> Batch:
    """The batch after all transforms, in order, its fractions as float32. ``fitted`` has one entry for each section."""
    for section, learned in zip(sections, fitted, strict=True):
        kind = kind_of(section)
        if training or not kind.training_only:
            batch = kind.apply(section if training else section.in_evaluation, learned, batch)
    return {name: _narrowed(values, batch.get("weight")) for name, values in batch.items()}


def _narrowed(values: np.ndarray, weight: np.ndarray | None) -> np.ndarray:
    """Fractions as float32; of a sample that counts nothing no NaN, which would count even then."""
    if values.dtype.kind != "f":
        return values
    narrow = values.astype(np.float32, copy=False) if values.dtype == np.float64 else values
    unread = np.flatnonzero(weight == 0) if weight is not None else ()
    if len(unread) and np.isnan(narrow[unread]).any():
        narrow = narrow.copy()
        narrow[unread] = np.nan_to_num(narrow[unread])
    return narrow


def as_floats(values: np.ndarray) -> np.ndarray:
    """Numbers as floats that tell them apart: float32 where it can, else float64, which ``apply_all`` narrows when all
    transforms are done.
    """
    return values.astype(np.result_type(values.dtype, np.float32), copy=False)


def tensor_of(batch: Batch, name: str, kind: str) -> np.ndarray:
    """The named tensor. Raises DataError with the names there are."""
    if name not in batch:
        there = ", ".join(sorted(k for k in batch if not k.startswith("sample_")))
        raise DataError(f"data.transforms: {kind} names the tensor {name!r}, but the data makes {there}")
    return batch[name]
