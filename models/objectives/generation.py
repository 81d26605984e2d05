"""Text token by token: drawn from a causal language model, which goes on from a prompt, or written by a decoder from a source.

Shapes: B samples, T tokens of the prompt, N tokens drawn or written, V vocabulary.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FINEST = 1 << 40
"""Parts of a probability that are told apart; those of a whole vocabulary add up within an int64."""


@runtime_checkable
class Remembering(Protocol):
    """A model that can read each token once: its forward takes ``past``, adds the tokens to it, and gives the logits (B, 1, V)
    after the last of them. A decoder's past also has what its encoder made of the source, from the first call on.
    """

    def new_past(self) -> Any:
        """What it keeps of tokens; of none yet."""
        ...


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

    A model that remembers (see ``Remembering``) reads each token once while the text fits into its context. Beyond, each
    token moves all others by one place, so the window is read anew; so does a model that does not remember.

    Args:
        model: Takes tokens (B, at most context) to logits (B, as many, V).
        prompt_BT: At least one token each.
        chance_BN: Uniform numbers in [0, 1), one for each token drawn.
        context: Tokens that the model reads at once.
        packed: Whether it also takes each token's document.
        temperature: The logits are divided by it (Ackley et al. 1985); at 0 the likeliest token is taken.
    """
    prompt = prompt_BT.shape[1]
    text_BT = F.pad(prompt_BT.long(), (0, chance_BN.shape[1]))
    past, read = None, 0
    with _uncompiled():
        for end in range(prompt, text_BT.shape[1]):
            begin = max(0, end - context)
            if isinstance(model, Remembering):
                if past is None or begin:
                    past, read = model.new_past(), begin
                logits_BTV = model(text_BT[:, read:end], past=past)
                read = end
            else:
                window_BT = text_BT[:, begin:end]
                logits_BTV = model(window_BT, *((torch.zeros_like(window_BT),) if packed else ()))
            text_BT[:, end] = drawn(logits_BTV[:, -1], chance_BN[:, end - prompt], temperature)
    return text_BT


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
) -> Tensor:
    """The likeliest token after those before it, again and again: (B, N) int64, the end token from a text's end on.

    Every rank calls the model N times, and nothing waits for the device, unless ``until_ended``.

    Args:
        model: Takes what the source says and ``target`` (B, n), the tokens so far behind the start token, to logits (B, n, V).
        source: The model's other inputs by name, in the order of its forward's arguments.
        tokens: N, written at most.
        start: What a decoder begins with.
        end: What a text ends with.
        by_name: Whether the model takes its inputs by name.
        until_ended: Whether to stop once all texts have ended.
    """
    given = next(tensor for tensor in source.values() if tensor is not None)
    text_BN = torch.full((len(given), 1 + tokens), end, dtype=torch.int64, device=given.device)
    text_BN[:, 0] = start
    ended_B = torch.zeros(len(given), dtype=torch.bool, device=given.device)
    past = model.new_past() if isinstance(model, Remembering) else None
    with _uncompiled():
        for place in range(tokens):
            so_far_BN = text_BN[:, 0 if past is None else place : place + 1]
            step = {**source, "target": so_far_BN}
            more = {} if past is None else {"past": past}
            if by_name:
                logits_BNV = model(**{name: t for name, t in step.items() if t is not None}, **more)
            else:
                logits_BNV = model(*step.values(), **more)
            next_B = logits_BNV[:, -1].argmax(-1).masked_fill(ended_B, end)
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
