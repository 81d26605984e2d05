"""Text that goes on from a prompt, drawn token by token from a causal language model.

Shapes: B samples, T tokens of the prompt, N tokens drawn, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@torch.no_grad()
def continued(
    model: nn.Module, prompt_BT: Tensor, chance_BN: Tensor, *, context: int, packed: bool = False
) -> Tensor:
    """The prompts with N tokens more, (B, T + N) int64.

    The model always reads a whole context, of which only the part before the next token counts, so that a compiled
    model sees one shape.

    Args:
        model: Takes tokens (B, context) to logits (B, context, V).
        prompt_BT: At least one token each.
        chance_BN: Uniform numbers in [0, 1), one for each token drawn.
        context: Tokens that the model reads at once.
        packed: Whether it also takes each token's document.
    """
    prompt = prompt_BT.shape[1]
    text_BT = F.pad(prompt_BT.long(), (0, chance_BN.shape[1]))
    for end in range(prompt, text_BT.shape[1]):
        begin = max(0, end - context)
        window_BT = text_BT[:, begin : begin + context]
        window_BT = F.pad(window_BT, (0, context - window_BT.shape[1]))
        documents = (torch.zeros_like(window_BT),) if packed else ()
        likely_BV = model(window_BT, *documents)[:, end - begin - 1].float().softmax(-1)
        # on the CPU: a GPU has no sum along a line that gives the same bits each time
        drawn_B = (likely_BV.cpu().cumsum(-1) < chance_BN[:, end - prompt, None].cpu()).sum(-1)
        text_BT[:, end] = drawn_B.clamp(max=likely_BV.shape[1] - 1).to(text_BT.device)
    return text_BT
