"""``spell``: texts into the numbers of their characters. Shapes: B samples, S characters."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from itertools import pairwise
from typing import Any

import numpy as np

from orchestrator.data.transforms import Batch, Fitted, sample_fault, tensor_of
from orchestrator.errors import DataError
from orchestrator.spec.transforms import Spell

_LOGGER = logging.getLogger(__name__)


class SpellFitter:
    """The characters of the training texts."""

    def __init__(self, section: Spell) -> None:
        self._section = section
        self._seen: set[str] = set()

    def update(self, batch: Batch) -> None:
        """See one batch."""
        self._seen.update(*_texts(batch, self._section))

    def result(self) -> dict[str, Any]:
        """Sorted. Raises DataError where there are none."""
        if not self._seen:
            raise DataError(
                f"data.transforms: spell finds no character in {self._section.tensor!r}: all its texts are empty"
            )
        return {"characters": sorted(self._seen)}


class SpellKind:
    """Texts of fixed alphabets."""

    training_only = False
    keeps_type = True

    def fitter(self, section: Spell) -> SpellFitter:
        """Learns the characters."""
        return SpellFitter(section)

    def sizes(self, section: Spell, fitted: Fitted) -> dict[str, int | tuple[int, ...]]:
        """Outputs, one of them the blank, and the number of the character between words."""
        characters: list[str] = list(fitted["characters"])
        return {
            "outputs": len(characters) + 1,
            "space": 1 + characters.index(" ") if " " in characters else 0,
        }

    def apply(self, section: Spell, fitted: Fitted, batch: Batch) -> Batch:
        """``target`` (B, length), int64, filled up with 0, and ``target_length`` (B,)."""
        number = {character: place for place, character in enumerate(fitted["characters"], 1)}
        batch, texts = _known(section, batch, _texts(batch, section), number.keys())
        target_BS = np.zeros((len(texts), section.length), dtype=np.int64)
        for row, text in enumerate(texts):
            if len(text) > section.length:
                raise _fault(
                    batch,
                    section,
                    row,
                    f"has {len(text)} characters, more than the {section.length} of spell",
                )
            for place, character in enumerate(text):
                target_BS[row, place] = number[character]
        rest = {name: values for name, values in batch.items() if name != section.tensor}
        length_B = np.array([len(text) for text in texts], dtype=np.int64)
        return {**self._held(section, rest, batch, texts), "target": target_BS, "target_length": length_B}

    def _held(self, section: Spell, rest: Batch, batch: Batch, texts: Sequence[str]) -> Batch:
        """The batch, in which texts that their frames can't hold count nothing where the section says so."""
        frames = tensor_of(batch, section.frames, "spell").shape[-1]
        there_B = batch["length"] if "length" in batch else np.full(len(texts), frames)
        needed_B = np.array([frames_needed(text) for text in texts])
        real_B = batch["weight"] > 0 if "weight" in batch else np.ones(len(texts), dtype=bool)
        unfit = np.flatnonzero((needed_B > there_B) & real_B)
        if not len(unfit):
            return rest
        row = int(unfit[0])
        said = f"has {len(texts[row])} characters, which need {needed_B[row]} frames, but the sound has {int(there_B[row])}"
        if section.unfit == "error" or "weight" not in batch:
            raise _fault(
                batch,
                section,
                row,
                f"{said}; make frames shorter (the hop of mel), or leave such out (unfit: skip and data.skip_bad_samples)",
            )
        _LOGGER.warning("sample %d %s; it is skipped", batch["sample_id"][row], said)
        return {**rest, "weight": np.where(needed_B > there_B, np.float32(0), rest["weight"])}


def _known(section: Spell, batch: Batch, texts: list[str], characters: Set[str]) -> tuple[Batch, list[str]]:
    """Batch and texts, in which texts with other characters count nothing, and are empty, where the section says so."""
    strange = [row for row, text in enumerate(texts) if not characters >= set(text)]
    if not strange:
        return batch, texts
    character = next(one for one in texts[strange[0]] if one not in characters)
    said = f"has the character {character!r}, which no training text has"
    if section.unfit == "error" or "weight" not in batch:
        raise _fault(
            batch,
            section,
            strange[0],
            f"{said}; such can be left out (unfit: skip and data.skip_bad_samples)",
        )
    _LOGGER.warning("sample %d %s; it is skipped", batch["sample_id"][strange[0]], said)
    skipped_B = np.isin(np.arange(len(texts)), strange)
    known = ["" if skipped else text for text, skipped in zip(texts, skipped_B, strict=True)]
    return {**batch, "weight": np.where(skipped_B, np.float32(0), batch["weight"])}, known


def frames_needed(text: str) -> int:
    """Frames of the shortest alignment: a blank stands between two characters that are alike."""
    return len(text) + sum(one == after for one, after in pairwise(text))


def _texts(batch: Batch, section: Spell) -> list[str]:
    """The texts; none of a sample that can't be read."""
    values = tensor_of(batch, section.tensor, "spell")
    if values.dtype != object or values.ndim != 1:
        raise DataError(f"data.transforms: spell takes texts, but {section.tensor!r} holds {values.dtype}")
    return [text if isinstance(text, str) else "" for text in values.tolist()]


def _fault(batch: Batch, section: Spell, row: int, message: str) -> DataError:
    wrong = np.zeros(len(batch[section.tensor]), dtype=bool)
    wrong[row] = True
    return sample_fault(message, batch, section.tensor, wrong)
