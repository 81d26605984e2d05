"""The last layer of a language model, which can give a loss without ever holding the logits of all tokens.

Logits are by far the largest tensor of a model with a large vocabulary. Here they are made for a chunk of rows at a
time, in the backward anew (the idea: Wijmans et al. 2024, arXiv:2411.09009). torch's ``linear_cross_entropy`` does so too,
but rounds each loss to the format of the products, and tells nothing else of the logits.

Shapes: N rows (tokens), W width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Score = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""Logits (N, V) in fp32 and targets (N,) -> the loss of each row (N,), and what else is told of each, which has no gradient."""


@dataclass(frozen=True, eq=False)
class Scoring:
    """What a head is asked for in place of logits."""

    target: Tensor
    """The right token of each row: as many as there are rows, in any shape."""
    score: Score
    chunk_tokens: int
    """Rows whose logits are held at a time."""


class LanguageHead(nn.Linear):
    """Logits over the vocabulary, or what is made of them."""

    def forward(self, x_W: Tensor, scoring: Scoring | None = None) -> Any:
        """(..., W) -> logits (..., V); with a scoring what its ``score`` gives, each (N,)."""
        if scoring is None:
            return super().forward(x_W)
        device = x_W.device.type
        # what autocast would do for a linear layer; it does not look into a function
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.weight.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return _Chunked.apply(x_W.flatten(0, -2).to(dtype), self.weight.to(dtype), bias, scoring)


class _Chunked(torch.autograd.Function):
    """Scores chunk by chunk; the gradient of the weight is summed in fp32."""

    @staticmethod
    def forward(
        ctx: Any, x_NW: Tensor, weight_VW: Tensor, bias_V: Tensor | None, scoring: Scoring
    ) -> tuple[Tensor, ...]:
        target_N = scoring.target.flatten().long()
        ctx.save_for_backward(x_NW, weight_VW, bias_V, target_N)
        ctx.scoring = scoring
        chunks = [
            scoring.score(F.linear(x_NW[rows], weight_VW, bias_V).float(), target_N[rows])
            for rows in _chunks(len(target_N), scoring.chunk_tokens)
        ]
        scores = tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))
        ctx.mark_non_differentiable(*scores[1:])
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x_NW, weight_VW, bias_V, target_N = ctx.saved_tensors
        for_x, for_weight, for_bias, _ = ctx.needs_input_grad
        gradient_NW = torch.empty_like(x_NW) if for_x else None
        gradient_VW = torch.zeros_like(weight_VW, dtype=torch.float32) if for_weight else None
        gradient_V = torch.zeros_like(bias_V, dtype=torch.float32) if for_bias else None
        for rows in _chunks(len(target_N), ctx.scoring.chunk_tokens):
            logits_NV = F.linear(x_NW[rows], weight_VW, bias_V).float()
            slope_NV = _slope(ctx.scoring.score, logits_NV, target_N[rows], gradient_N[rows])
            del logits_NV
            slope_NV = slope_NV.to(weight_VW.dtype)
            if gradient_NW is not None:
                torch.mm(slope_NV, weight_VW, out=gradient_NW[rows])
            if gradient_VW is not None:
                gradient_VW += slope_NV.t() @ x_NW[rows]
            if gradient_V is not None:
                gradient_V += slope_NV.sum(0, dtype=torch.float32)
            del slope_NV  # before the next chunk's
        return gradient_NW, gradient_VW, gradient_V, None


def _slope(score: Score, logits_NV: Tensor, target_N: Tensor, gradient_N: Tensor) -> Tensor:
    """The gradient (N, V) of the loss by the logits."""
    with torch.enable_grad():
        loss_N = score(logits_NV.requires_grad_(), target_N)[0]
    (slope_NV,) = torch.autograd.grad(loss_N, logits_NV, gradient_N)
    return slope_NV


def _chunks(rows: int, size: int) -> Iterator[slice]:
    for begin in range(0, max(rows, 1), size):
        yield slice(begin, min(begin + size, rows))
