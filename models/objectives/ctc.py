"""Texts from frames without an alignment: connectionist temporal classification (Graves et al. 2006, ICML).

Shapes: B samples, T frames, O outputs (the blank, which is 0, and the characters), S characters of a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.models.base import Batch, Sample, Sums, TensorSpec, weights_of
from orchestrator.models.configs import CtcConfig, FamilyConfig
from orchestrator.models.objectives.common import OnePhase, forward

BLANK = 0
_SAMPLE_TEXTS = 4


class Ctc(OnePhase):
    """The negative logarithm of the probability of each text, summed over its alignments. Unit: character of a text.

    The model's forward takes the family's input tensors in their order, of which ``length`` says how many frames are a
    sample's own, and gives outputs for each frame (B, T, O).
    """

    def __init__(self, config: FamilyConfig, objective: CtcConfig) -> None:
        self._tensors = config.input_tensors(objective)
        self._by_name = config.inputs_by_name
        self._outputs = config.outputs_for(objective)
        self._space = objective.space or BLANK

    def inputs(self) -> Mapping[str, TensorSpec]:
        """The family's inputs, the characters of each text, from 1 on, and how many they are."""
        return {
            **self._tensors,
            "target": TensorSpec((None,), "int", below=self._outputs),
            "target_length": TensorSpec((), "int"),
        }

    @property
    def units_per_sample(self) -> int | None:
        """Texts differ in length."""
        return None

    def units(self, phase: str, batch: Batch) -> Tensor:
        """Characters of the texts of samples that are not padding."""
        return (batch["target_length"] * weights_of(batch, batch["target"])).sum()

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """See ``Objective.loss``."""
        return self._sums(self._predict(modules, batch), batch)

    @torch.no_grad()
    def evaluate(
        self, modules: Mapping[str, nn.Module], batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """The loss, and the character and word error rates of greedy decoding: edits, over what there is."""
        logits_BTO = self._predict(modules, batch)
        sums = self._sums(logits_BTO, batch)
        edits = np.zeros((2, 2))
        weights = weights_of(batch, batch["target"]).tolist()
        for heard, said, weight in zip(self._heard(logits_BTO, batch), _said(batch), weights, strict=True):
            pairs = ((heard, said), (self._words(heard), self._words(said)))
            edits += weight * np.array([(edit_distance(*pair), len(pair[1])) for pair in pairs])
        totals = torch.from_numpy(edits).to(logits_BTO.device)
        return {
            "loss": (sums.loss, sums.count),
            "cer": (totals[0, 0], totals[0, 1]),
            "wer": (totals[1, 0], totals[1, 1]),
        }

    @torch.no_grad()
    def samples(self, modules: Mapping[str, nn.Module], batch: Batch, count: int) -> list[Sample]:
        """What was said and what is heard, of the first sounds."""
        few = {name: tensor[: min(count, _SAMPLE_TEXTS)] for name, tensor in batch.items()}
        heard = self._heard(self._predict(modules, few), few)
        shown = []
        for number, pair in enumerate(zip(_said(few), heard, strict=True)):
            for what, characters in zip(("said", "heard"), pair, strict=True):
                shown.append(Sample(f"{number} {what}", "text", np.array(characters, dtype=np.int64)))
        return shown

    def _predict(self, modules: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        given = {name: batch.get(name) for name in self._tensors}
        return forward(modules["model"], given, by_name=self._by_name).float()

    def _sums(self, logits_BTO: Tensor, batch: Batch) -> Sums:
        loss_B, _ = ctc_loss(
            logits_BTO.log_softmax(-1).transpose(0, 1),
            batch["target"].long(),
            _frames(logits_BTO, batch),
            batch["target_length"].long(),
        )
        weight_B = weights_of(batch, batch["target"])
        return Sums((loss_B * weight_B).sum(), self.units("model", batch), {})

    def _heard(self, logits_BTO: Tensor, batch: Batch) -> list[list[int]]:
        return greedy(logits_BTO.argmax(-1).tolist(), _frames(logits_BTO, batch).tolist())

    def _words(self, characters: Sequence[int]) -> list[tuple[int, ...]]:
        """Words of a text, which is one itself where there is no character between words."""
        groups = groupby(characters, key=lambda one: one == self._space)
        return [tuple(word) for is_space, word in groups if not is_space]


def _frames(logits_BTO: Tensor, batch: Batch) -> Tensor:
    """How many frames of each sample are its own: (B,) int64."""
    length_B: Any = batch.get("length")
    if length_B is None:
        return torch.full(logits_BTO.shape[:1], logits_BTO.shape[1], device=logits_BTO.device)
    return length_B.long()


def _said(batch: Batch) -> list[list[int]]:
    lengths = batch["target_length"].tolist()
    return [row[:length] for row, length in zip(batch["target"].tolist(), lengths, strict=True)]


def greedy(best: Sequence[Sequence[int]], frames: Sequence[int]) -> list[list[int]]:
    """Texts of each sample's most likely output by frame: repeated ones are one, and blanks none."""
    return [
        [output for output, _ in groupby(row[:length]) if output != BLANK]
        for row, length in zip(best, frames, strict=True)
    ]


def edit_distance(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Fewest insertions, deletions and substitutions that make one of the other (Levenshtein 1966)."""
    before = list(range(len(other) + 1))
    for row, item in enumerate(one, 1):
        now = [row]
        for column, wanted in enumerate(other, 1):
            now.append(min(before[column] + 1, now[-1] + 1, before[column - 1] + (item != wanted)))
        before = now
    return before[-1]


@torch.library.custom_op("trainwright::_ctc_loss", mutates_args=())
def ctc_loss(
    log_probability_TBO: Tensor, target_BS: Tensor, frames_B: Tensor, target_length_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Loss of each sample as torch computes it (B,), and its gradient (T, B, O): an operation of our own, since torch's has no shape
    without numbers, and the planner counts on shapes. A text that its frames can't hold counts nothing: the data refuses
    such, and padding may be one.
    """
    given = (log_probability_TBO, target_BS, frames_B, target_length_B)
    loss_B, alpha = torch.ops.aten._ctc_loss.Tensor(*given, BLANK, True)
    gradient_TBO = torch.ops.aten._ctc_loss_backward.Tensor(
        torch.ones_like(loss_B), *given, loss_B, alpha, BLANK, True
    )
    return loss_B.masked_fill(loss_B.isinf(), 0), gradient_TBO


@ctc_loss.register_fake
def _(
    log_probability_TBO: Tensor, target_BS: Tensor, frames_B: Tensor, target_length_B: Tensor
) -> tuple[Tensor, Tensor]:
    return log_probability_TBO.new_empty(log_probability_TBO.shape[1]), torch.empty_like(log_probability_TBO)


def _keep(ctx: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])


def _backward(ctx: Any, gradient_B: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
    (own_TBO,) = ctx.saved_tensors
    return own_TBO * gradient_B[:, None], None, None, None


ctc_loss.register_autograd(_backward, setup_context=_keep)
