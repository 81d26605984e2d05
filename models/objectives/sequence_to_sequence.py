"""One text from another, by an encoder and a decoder.

The model's forward takes ``tokens`` (B, S), ``length`` (B,) and ``target`` (B, T), what its decoder reads: the start token and
the target but for its last token. It gives logits (B, T, V), of each next token.

Shapes: B samples, S tokens of the source, T of the target, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.base import Batch, Sample, Sums, TensorSpec, weights_of
from orchestrator.models.configs import FamilyConfig, SequenceToSequenceConfig
from orchestrator.models.metrics import Statistics
from orchestrator.models.objectives.common import OnePhase, forward
from orchestrator.models.objectives.generation import written
from orchestrator.models.text_scores import TEXT_SCORES, WRITTEN

_SAMPLE_TEXTS = 4
"""Samples of text at a time, at most."""


class SequenceToSequence(OnePhase):
    """Cross-entropy of each real token of a target, from the source and the real tokens before it. Unit: target token.

    What fills a text up after its length is no target, and no real token is predicted from it.
    """

    def __init__(self, config: FamilyConfig, objective: SequenceToSequenceConfig) -> None:
        assert objective.start_token is not None and objective.end_token is not None
        self._tensors = dict(config.input_tensors(objective))
        self._target = self._tensors["target"]
        self._start, self._end = objective.start_token, objective.end_token
        self._by_name = config.inputs_by_name
        self._smoothing = objective.label_smoothing
        self._beams, self._length_penalty = objective.beams, objective.length_penalty
        self._counts_matches = "exact_match" in objective.metrics
        self._shows_written = any(name in TEXT_SCORES for name in objective.metrics)
        self._longest = self._target.longest if self._shows_written else None

    def inputs(self) -> Mapping[str, TensorSpec]:
        """The family's inputs, and how many tokens of each target are real."""
        longest = self._target.longest
        below = None if longest is None else longest + 1
        return {**self._tensors, "target_length": TensorSpec((), "int", below=below, optional=True)}

    @property
    def units_per_sample(self) -> int | None:
        """Targets differ in length."""
        return None

    def units(self, phase: str, batch: Batch) -> Tensor:
        """Real tokens of the targets."""
        return self._unit_weights(batch).sum()

    def _unit_weights(self, batch: Batch) -> Tensor:
        """(B, T) weight of each prediction: 0 of what fills up."""
        target_BT = batch["target"]
        weight_BT = weights_of(batch, target_BT)[:, None].expand(target_BT.shape)
        if "target_length" not in batch:
            return weight_BT
        position_T = torch.arange(target_BT.shape[1], device=target_BT.device)
        return weight_BT * (position_T < batch["target_length"][:, None])

    def _given(self, batch: Batch) -> dict[str, Tensor | None]:
        """What the model reads of the source, in the order of its forward's arguments."""
        return {name: batch.get(name) for name in self._tensors if name != "target"}

    def _logits(self, modules: Mapping[str, nn.Module], batch: Batch) -> Tensor:
        """(B, T, V) in fp32."""
        shifted_BT = F.pad(batch["target"][:, :-1], (1, 0), value=self._start)
        given = {**self._given(batch), "target": shifted_BT}
        return forward(modules["model"], given, by_name=self._by_name).float()

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """See ``Objective.loss``."""
        logits_BTV, weight_BT = self._logits(modules, batch), self._unit_weights(batch)
        loss_BT = _losses(logits_BTV, batch["target"], self._smoothing)
        return Sums((loss_BT * weight_BT).sum(), weight_BT.sum(), {})

    @torch.no_grad()
    def evaluate(
        self, modules: Mapping[str, nn.Module], batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """Loss without smoothing, the share of tokens that were the likeliest one, and of targets that would be written."""
        logits_BTV, weight_BT = self._logits(modules, batch), self._unit_weights(batch)
        loss_BT = _losses(logits_BTV, batch["target"], 0.0)
        right_BT = logits_BTV.argmax(-1) == batch["target"]
        count = weight_BT.sum()
        found: Statistics = {
            "loss": ((loss_BT * weight_BT).sum(), count),
            "accuracy": ((right_BT * weight_BT).sum(), count),
        }
        if self._counts_matches or self._shows_written:
            found |= self._compared(modules, batch, weight_BT)
        return found

    def _compared(self, modules: Mapping[str, nn.Module], batch: Batch, weight_BT: Tensor) -> Statistics:
        """Targets that are written token by token, end token included, of how many; and the rows that ``text_scores.scored`` takes,
        of texts that are cut where the model's longest target ends, not the batch's.
        """
        target_BT, found = batch["target"], Statistics()
        length, weight_B = target_BT.shape[1], weights_of(batch, target_BT)
        written_BN = self._written(modules, batch, self._longest or length)
        if self._counts_matches:
            same_B = ((written_BN[:, :length] == target_BT) | (weight_BT == 0)).all(1)
            found["exact_match"] = (same_B * weight_B).sum(), weight_B.sum()
        if self._longest:
            ended_BT = target_BT.masked_fill(weight_BT == 0, self._end)
            ended_BN = F.pad(ended_BT, (0, self._longest - length), value=self._end)
            found[WRITTEN] = torch.cat([written_BN, ended_BN, (weight_B > 0)[:, None]], dim=1).int(), None
        return found

    def _written(self, modules: Mapping[str, nn.Module], batch: Batch, tokens: int) -> Tensor:
        return written(
            modules["model"],
            self._given(batch),
            tokens=tokens,
            start=self._start,
            end=self._end,
            by_name=self._by_name,
            beams=self._beams,
            length_penalty=self._length_penalty,
        )

    @torch.no_grad()
    def samples(self, modules: Mapping[str, nn.Module], batch: Batch, count: int) -> list[Sample]:
        """What is written from some sources, below the source and the target."""
        few = {name: tensor[: min(count, _SAMPLE_TEXTS)] for name, tensor in batch.items()}
        written_BT = self._written(modules, few, batch["target"].shape[1])
        shown: list[Sample] = []
        for index in range(len(written_BT)):
            source_S = _real(few["tokens"][index], few.get("length"), index)
            target_T = _real(few["target"][index], few.get("target_length"), index)
            shown += [
                Sample(f"text_{index}/source", "text", source_S.cpu().numpy(), read=True),
                Sample(f"text_{index}/target", "text", target_T.cpu().numpy()),
                Sample(f"text_{index}", "text", written_BT[index].cpu().numpy()),
            ]
        return shown


def _losses(logits_BTV: Tensor, target_BT: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy (B, T)."""
    loss_N = F.cross_entropy(
        logits_BTV.flatten(0, 1), target_BT.flatten().long(), reduction="none", label_smoothing=smoothing
    )
    return loss_N.view(target_BT.shape)


def _real(tokens_T: Tensor, length_B: Tensor | None, index: int) -> Tensor:
    return tokens_T if length_B is None else tokens_T[: int(length_B[index])]
