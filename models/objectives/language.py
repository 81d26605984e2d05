"""Language models: the next token, or hidden tokens.

Shapes: B samples, T tokens, K chosen tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.attention import without_last
from orchestrator.models.base import Batch, Sample, Sums, TensorSpec, uniform_from, weights_of
from orchestrator.models.configs import (
    BertConfig,
    CausalLmConfig,
    CustomConfig,
    GptConfig,
    MaskedLmConfig,
    RecurrentConfig,
)
from orchestrator.models.language_head import Score, Scoring
from orchestrator.models.objectives.common import OnePhase, forward
from orchestrator.models.objectives.generation import continued, likeliest_continued

SAMPLE_TEXTS = 4
"""Samples of text at a time, at most."""
SAMPLE_TOKENS = 128
"""Tokens that a sample of text has after its prompt."""
PROMPT_TOKENS = 16
"""Tokens of evaluation text that a sample of text begins with."""


class CausalLm(OnePhase):
    """Cross-entropy of each real token after the first, from those before it. Unit: predicted token.

    What fills a sequence up after its ``length`` is no target; where there is an ``answer_mask``, nor is what it has not.
    """

    def __init__(self, config: GptConfig | RecurrentConfig | CustomConfig, objective: CausalLmConfig) -> None:
        assert config.context is not None
        self._chunk_tokens = objective.chunk_tokens
        self._counted = config.vocabulary if "bits_per_byte" in objective.metrics else None
        self._tensors = dict(config.input_tensors(objective))
        self._by_name = config.inputs_by_name
        self._packed = objective.packed
        self._beams, self._length_penalty = objective.beams, objective.length_penalty
        self._reads_borders = config.reads_borders
        self._context = config.context
        document = self._tensors.pop("document", None)
        if objective.packed and document is not None:
            self._tensors["document"] = TensorSpec(document.shape, document.kind)
        # the model reads no length: what comes after a token does not change what is predicted at it
        self._tensors["length"] = TensorSpec((), "int", below=config.context + 2, optional=True)
        self._tensors["answer_mask"] = TensorSpec((None,), "int", below=2, optional=True)

    def inputs(self) -> Mapping[str, TensorSpec]:
        """Tokens, how many of them are real, which are of answers, and their documents where these are kept apart."""
        return self._tensors

    @property
    def units_per_sample(self) -> int | None:
        """Blocks may have any length up to the context."""
        return None

    def units(self, phase: str, batch: Batch) -> Tensor:
        """Real tokens with one before them, in their own document; of conversations those of answers."""
        if self._differ(batch):
            return self._unit_weights(batch).sum()
        batch_size, length = batch["tokens"].shape
        return torch.full((), float(batch_size * (length - 1)), device=batch["tokens"].device)

    def _differ(self, batch: Batch) -> bool:
        """Whether some predictions may not count."""
        return self._packed or any(name in batch for name in ("weight", "length", "answer_mask"))

    def _unit_weights(self, batch: Batch) -> Tensor:
        """(B, T) weight of each prediction."""
        tokens_BT = batch["tokens"]
        weight_BT = weights_of(batch, tokens_BT)[:, None].expand(-1, tokens_BT.shape[1] - 1)
        if "length" in batch:
            target_T = torch.arange(1, tokens_BT.shape[1], device=tokens_BT.device)
            weight_BT = weight_BT * (target_T < batch["length"][:, None])
        if "answer_mask" in batch:
            weight_BT = weight_BT * batch["answer_mask"][:, 1:]
        if self._packed:
            document_BT = batch["document"]
            weight_BT = weight_BT * (document_BT[:, 1:] == document_BT[:, :-1])
        return weight_BT

    def _scores(self, modules: Mapping[str, nn.Module], batch: Batch, score: Score) -> tuple[Tensor, ...]:
        """Of each prediction of the batch, one after the other."""
        given, target_BT = {"tokens": batch["tokens"][:, :-1]}, batch["tokens"][:, 1:]
        if self._packed:
            given["document"] = batch["document"][:, :-1]
            if self._reads_borders and "document_border" in batch:
                given["border"] = without_last(batch["document_border"], batch["tokens"].shape[1])
        if self._chunk_tokens is not None:
            scores: tuple[Tensor, ...] = modules["model"](
                *given.values(), scoring=Scoring(target_BT, score, self._chunk_tokens)
            )
            return scores
        logits_BTV = forward(modules["model"], given, by_name=self._by_name).float()
        return score(logits_BTV.flatten(0, 1), target_BT.flatten().long())

    def _sum(self, loss_N: Tensor, batch: Batch) -> Tensor:
        return (loss_N * self._unit_weights(batch).flatten()).sum() if self._differ(batch) else loss_N.sum()

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """See ``Objective.loss``; perplexity is the exponential of the mean."""
        (loss_N,) = self._scores(modules, batch, _losses)
        return Sums(self._sum(loss_N, batch), self.units(phase, batch), {})

    @torch.no_grad()
    def evaluate(
        self, modules: Mapping[str, nn.Module], batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """Loss and the share of tokens that were the most likely one."""
        loss_N, right_N = self._scores(modules, batch, _losses_and_right)
        right, count = (right_N * self._unit_weights(batch).flatten()).sum(), self.units("model", batch)
        found = {"loss": (self._sum(loss_N, batch), count), "accuracy": (right, count)}
        if self._counted is not None:
            weight_N = self._unit_weights(batch).flatten().double()
            counts_V = torch.zeros(self._counted, dtype=torch.float64, device=weight_N.device)
            found["tokens"] = counts_V.index_add_(0, batch["tokens"][:, 1:].flatten().long(), weight_N), count
        return found

    @torch.no_grad()
    def samples(self, modules: Mapping[str, nn.Module], batch: Batch, count: int) -> list[Sample]:
        """Text that goes on from the first tokens of evaluation samples, as many as all of them really have."""
        count = min(count, SAMPLE_TEXTS)
        shortest = int(batch["length"][:count].min()) if "length" in batch else PROMPT_TOKENS
        prompt_BT = batch["tokens"][:count, : max(1, min(PROMPT_TOKENS, shortest))]
        if self._beams > 1:
            text_BT = likeliest_continued(
                modules["model"],
                prompt_BT,
                tokens=SAMPLE_TOKENS,
                ends=(),
                context=self._context,
                packed=self._packed,
                beams=self._beams,
                length_penalty=self._length_penalty,
            )
        else:
            chance_BN = uniform_from(batch["sample_seed"][:count], (SAMPLE_TOKENS,), salt=3)
            text_BT = continued(
                modules["model"], prompt_BT, chance_BN, context=self._context, packed=self._packed
            )
        return [Sample(f"text_{index}", "text", text.cpu().numpy()) for index, text in enumerate(text_BT)]


class MaskedLm(OnePhase):
    """Cross-entropy of chosen tokens, of which 80 % are hidden, 10 % replaced and 10 % left. Unit: chosen token.

    As many tokens of a sample are chosen as ``share`` says, at least one, so shapes don't depend on chance.
    Choice and replacements are a function of ``sample_seed`` alone.
    """

    def __init__(self, config: BertConfig, objective: MaskedLmConfig) -> None:
        assert config.vocabulary is not None and objective.mask_token is not None
        self._tensors = config.input_tensors(objective)
        self._vocabulary = config.vocabulary
        self._share = objective.share
        self._chunk_tokens = objective.chunk_tokens
        self._whole_words = objective.whole_words
        self._mask_token = objective.mask_token
        self._special_tokens = sorted({objective.mask_token, *(objective.special_tokens or ())})

    def inputs(self) -> Mapping[str, TensorSpec]:
        """The family's inputs, and words where whole ones are chosen."""
        if self._whole_words:
            return {**self._tensors, "word": TensorSpec((None,), "int")}
        return self._tensors

    @property
    def units_per_sample(self) -> int | None:
        """Samples differ in how many tokens can be chosen."""
        return None

    def units(self, phase: str, batch: Batch) -> Tensor:
        """Chosen tokens."""
        _, weight_BK = self._chosen(batch)
        return weight_BK.sum()

    def _chosen(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Places (B, K) of the tokens to predict, and the weight (B, K) of each: 0 where a sample has fewer."""
        tokens_BT = batch["tokens"]
        length = tokens_BT.shape[1]
        position_T = torch.arange(length, device=tokens_BT.device)
        eligible_BT = torch.ones_like(tokens_BT, dtype=torch.bool)
        for (
            token
        ) in self._special_tokens:  # few; a tensor of them would be copied to the device in every step
            eligible_BT &= tokens_BT != token
        if "length" in batch:
            eligible_BT &= position_T < batch["length"][:, None]
        score_BT = uniform_from(batch["sample_seed"], (length,), salt=4)
        slots = math.ceil(self._share * length)
        if self._whole_words:
            # All tokens of a word have its first token's score; a word that crosses the share is taken whole.
            begins_BT = F.pad(batch["word"][:, 1:] != batch["word"][:, :-1], (1, 0), value=True)
            first_BT = (position_T * begins_BT).cummax(dim=1).values
            score_BT = score_BT.take_along_dim(first_BT, dim=1)
            slots = min(length, slots + _LONGEST_WORD)
        score_BT = score_BT.masked_fill(~eligible_BT, 2.0)
        score_BK, place_BK = score_BT.sort(dim=1, stable=True)
        score_BK, place_BK = score_BK[:, :slots], place_BK[:, :slots]
        wanted_B = (eligible_BT.sum(1) * self._share).round().clamp(min=1)
        rank_BK = torch.arange(slots, device=tokens_BT.device).expand_as(place_BK)
        if self._whole_words:
            begins_BK = F.pad(score_BK[:, 1:] != score_BK[:, :-1], (1, 0), value=True)
            rank_BK = (rank_BK * begins_BK).cummax(dim=1).values
        weight_BK = ((rank_BK < wanted_B[:, None]) & (score_BK < 2.0)).float()
        return place_BK, weight_BK * weights_of(batch, tokens_BT)[:, None]

    def _hidden(self, batch: Batch, place_BK: Tensor, weight_BK: Tensor) -> Tensor:
        """Tokens (B, T) with the chosen ones hidden, replaced or left."""
        tokens_BT, slots = batch["tokens"], place_BK.shape[1]
        way_BK = uniform_from(batch["sample_seed"], (slots,), salt=5)
        random_BK = (uniform_from(batch["sample_seed"], (slots,), salt=6) * self._vocabulary).to(
            tokens_BT.dtype
        )
        own_BK = tokens_BT.take_along_dim(place_BK, dim=1)
        new_BK = torch.where(way_BK < 0.9, random_BK, own_BK).masked_fill(way_BK < 0.8, self._mask_token)
        return tokens_BT.scatter(1, place_BK, torch.where(weight_BK > 0, new_BK, own_BK))

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """See ``Objective.loss``."""
        place_BK, weight_BK = self._chosen(batch)
        target_BK = batch["tokens"].take_along_dim(place_BK, dim=1).long()
        given = (
            self._hidden(batch, place_BK, weight_BK),
            batch.get("length"),
            batch.get("segment"),
            place_BK,
        )
        if self._chunk_tokens is None:
            logits_BKV = modules["model"](*given).float()
            loss_N, right_N = _losses_and_right(logits_BKV.flatten(0, 1), target_BK.flatten())
        else:
            scoring = Scoring(target_BK, _losses_and_right, self._chunk_tokens)
            loss_N, right_N = modules["model"](*given, scoring=scoring)
        weight_N, count = weight_BK.flatten(), weight_BK.sum()
        return Sums((loss_N * weight_N).sum(), count, {"accuracy": ((right_N * weight_N).sum(), count)})


def _losses(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor]:
    """Cross-entropy (N,)."""
    return (F.cross_entropy(logits_NV, target_N, reduction="none"),)


def _losses_and_right(logits_NV: Tensor, target_N: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy (N,), and whether the target is the most likely token (N,)."""
    return (*_losses(logits_NV, target_N), logits_NV.argmax(-1) == target_N)


_LONGEST_WORD = 15
"""Tokens by which a word taken whole may exceed the share."""
