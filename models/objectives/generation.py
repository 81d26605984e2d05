"""Text token by token: drawn from a causal language model, which goes on from a prompt, or written by a decoder from a source.

Shapes: B samples, T tokens of the prompt, N tokens drawn or written, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.objectives.beam_search import likeliest_written
from orchestrator.models.objectives.reading_on import GoingOn, ReadingOn

_FINEST = 1 << 40
"""Parts of a probability that are told apart; those of a whole vocabulary add up within an int64."""


@torch.no_grad()
def continued(
    model: nn.Module,
    prompt_BT: Tensor,
    chance_BN: Tensor,
    *,
    context: int,
    packed: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """The prompts with N tokens more, (B, T + N) int64. Nothing waits for the device, and every rank calls the model N times.

    Args:
        model: See ``GoingOn``.
        prompt_BT: At least one token each.
        chance_BN: Uniform numbers in [0, 1), one for each token drawn.
        context: Tokens that the model reads at once.
        packed: Whether it also takes each token's document.
        temperature: The logits are divided by it (Ackley et al. 1985); at 0 the likeliest token is taken.
    """
    prompt = prompt_BT.shape[1]
    text_BT = F.pad(prompt_BT.long(), (0, chance_BN.shape[1]))
    decoder = GoingOn(model, context=context, packed=packed)
    with _uncompiled():
        for end in range(prompt, text_BT.shape[1]):
            logits_BV = decoder.next_logits(text_BT[:, :end])
            text_BT[:, end] = drawn(logits_BV, chance_BN[:, end - prompt], temperature)
    return text_BT


@torch.no_grad()
def likeliest_continued(
    model: nn.Module,
    prompt_BT: Tensor,
    *,
    tokens: int,
    ends: Sequence[int],
    context: int,
    packed: bool = False,
    beams: int,
    length_penalty: float,
    until_ended: bool = False,
) -> Tensor:
    """The prompts with the best N tokens more that a beam search finds, (B, T + N) int64. Every rank calls the model N times, and
    nothing waits for the device, unless ``until_ended``.

    Args:
        model: See ``GoingOn``.
        prompt_BT: At least one token each.
        tokens: N.
        ends: See ``likeliest_written``.
        context: Tokens that the model reads at once.
        packed: Whether it also takes each token's document.
        beams: Texts that are gone on with at a time, for each prompt.
        length_penalty: See ``likeliest_written``; the prompt's tokens do not count.
        until_ended: See ``likeliest_written``.
    """
    decoder = GoingOn(model, context=context, packed=packed, chooses=True)
    with _uncompiled():
        more_BN = likeliest_written(
            decoder,
            prompt_BT.long(),
            tokens=tokens,
            ends=ends,
            beams=beams,
            length_penalty=length_penalty,
            until_ended=until_ended,
        )
    return torch.cat((prompt_BT.long(), more_BN), dim=1)


@torch.no_grad()
def written(
    model: nn.Module,
    source: Mapping[str, Tensor | None],
    *,
    tokens: int,
    start: int,
    end: int,
    by_name: bool,
    until_ended: bool = False,
    beams: int = 1,
    length_penalty: float = 1.0,
) -> Tensor:
    """What a decoder makes of sources: (B, N) int64, the end token from a text's end on. The likeliest token after those before
    it, again and again, or the best text of a beam search.

    Every rank calls the model N times, and nothing waits for the device, unless ``until_ended``.

    Args:
        model: See ``ReadingOn``.
        source: See ``ReadingOn``.
        tokens: N, written at most.
        start: What a decoder begins with.
        end: What a text ends with.
        by_name: Whether the model takes its inputs by name.
        until_ended: Whether to stop once all texts have ended.
        beams: Texts that are gone on with at a time, for each source.
        length_penalty: See ``likeliest_written``.
    """
    decoder = ReadingOn(model, source, by_name=by_name, chooses=beams > 1)
    with _uncompiled():
        if beams == 1:
            return _greedily_written(decoder, tokens=tokens, start=start, end=end, until_ended=until_ended)
        return likeliest_written(
            decoder,
            torch.full((decoder.rows, 1), start, dtype=torch.int64, device=decoder.device),
            tokens=tokens,
            ends=(end,),
            beams=beams,
            length_penalty=length_penalty,
            until_ended=until_ended,
        )


def _greedily_written(decoder: ReadingOn, *, tokens: int, start: int, end: int, until_ended: bool) -> Tensor:
    text_BN = torch.full((decoder.rows, 1 + tokens), end, dtype=torch.int64, device=decoder.device)
    text_BN[:, 0] = start
    ended_B = torch.zeros(decoder.rows, dtype=torch.bool, device=decoder.device)
    for place in range(tokens):
        next_B = decoder.next_logits(text_BN[:, : place + 1]).argmax(-1).masked_fill(ended_B, end)
        text_BN[:, place + 1] = next_B
        ended_B |= next_B == end
        if until_ended and bool(ended_B.all()):
            break
    return text_BN[:, 1:]


def _uncompiled() -> AbstractContextManager[Any]:
    """Around forwards of ever other lengths: a compiled block would be compiled anew for them."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and to import it takes seconds
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def drawn(logits_BV: Tensor, chance_B: Tensor, temperature: float) -> Tensor:
    """One token (B,) of each distribution: the same for the same numbers, on every device."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    likely_BV = (logits_BV.float() / temperature).softmax(-1)
    # in whole numbers: a GPU adds up others in an order that changes from call to call
    up_to_BV = (likely_BV.double() * _FINEST).long().cumsum(-1)
    threshold_B1 = (chance_B.double()[:, None] * up_to_BV[:, -1:]).long()
    return (up_to_BV <= threshold_B1).sum(-1).clamp(max=logits_BV.shape[1] - 1)
