"""Transforms of signals (channels, steps): ``resample``, ``pad`` and ``crop``.

Of encoded sounds a batch may have ``length``, how many steps of each are its own: what changes steps changes it too.
Shapes: B samples, C channels, T steps.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from orchestrator.data.transforms import Batch, Fitted, sample_fault, tensor_of
from orchestrator.data.transforms.images import uniform_from_seed
from orchestrator.errors import DataError
from orchestrator.spec.transforms import Crop, Pad, Resample

_CROP_SALT = 103


class OfSignals:
    """What transforms of signals have in common: they learn nothing."""

    training_only = False
    keeps_type = False

    def fitter(self, section: object) -> None:
        """Nothing to learn."""

    def sizes(self, section: object, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """None."""
        return {}


class ResampleKind(OfSignals):
    """Sounds to one rate; done as they are decoded."""

    def apply(self, section: Resample, fitted: Fitted, batch: Batch) -> Batch:
        """The batch as it is."""
        tensor_of(batch, section.tensor, "resample")
        return batch


class PadKind(OfSignals):
    """Signals to one length; of encoded sounds done as they are decoded."""

    def apply(self, section: Pad, fitted: Fitted, batch: Batch) -> Batch:
        """(B, C, length)."""
        signal_BCT = signals(batch, section.tensor, "pad")
        steps = signal_BCT.shape[-1]
        if steps > section.length and section.longer == "error":
            raise sample_fault(
                f"has {steps:,} steps, more than the {section.length:,} of pad; give it a greater length, or longer: cut",
                batch,
                section.tensor,
                np.ones(signal_BCT.shape, dtype=bool),
            )
        if steps == section.length:
            return batch
        missing = [(0, 0)] * (signal_BCT.ndim - 1) + [(0, max(0, section.length - steps))]
        padded = np.pad(signal_BCT, missing)[..., : section.length]
        return with_steps(batch, section.tensor, padded, lambda length: np.minimum(length, section.length))


class CropKind(OfSignals):
    """A piece of each."""

    keeps_type = True

    def apply(self, section: Crop, fitted: Fitted, batch: Batch) -> Batch:
        """(B, C, length)."""
        signal_BCT = signals(batch, section.tensor, "crop")
        steps = signal_BCT.shape[-1]
        if steps < section.length:
            raise DataError(
                f"data.transforms: crop cuts {section.length:,} steps out of {section.tensor!r}, which has {steps:,}; put"
                f" {{kind: pad, tensor: {section.tensor}, length: {section.length}}} before it, or make its length smaller"
            )
        own = batch["length"] if "length" in batch else np.full(len(signal_BCT), steps)
        room = np.maximum(0, own - section.length)
        if section.place == "random":
            share = uniform_from_seed(batch["sample_seed"], 1, salt=_CROP_SALT)[:, 0]
            start = np.floor(share * (room + 1)).astype(np.int64)
        else:
            start = room // 2 if section.place == "center" else np.zeros_like(room)
        out = np.empty((*signal_BCT.shape[:-1], section.length), signal_BCT.dtype)
        for sample, first in enumerate(start.tolist()):
            out[sample] = signal_BCT[sample, ..., first : first + section.length]
        return with_steps(batch, section.tensor, out, lambda length: np.minimum(length, section.length))


def signals(batch: Batch, name: str, kind: str) -> np.ndarray:
    """The named tensor. Raises DataError where it holds no signals or spectrograms."""
    values = tensor_of(batch, name, kind)
    if values.ndim not in (3, 4) or values.dtype.kind not in "fiu":
        raise DataError(
            f"data.transforms: {kind} takes signals (channels, steps), but a sample's {name!r} has the shape"
            f" {values.shape[1:]}"
        )
    return values


def with_steps(
    batch: Batch, name: str, values: np.ndarray, length_after: Callable[[np.ndarray], np.ndarray]
) -> Batch:
    """The batch with a tensor of other steps, and with ``length`` as it is then.

    Args:
        length_after: (own steps before) -> own steps.
    """
    changed = {**batch, name: values}
    if "length" in batch:
        changed["length"] = length_after(batch["length"])
    return changed
