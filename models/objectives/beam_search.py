"""Beam search (Graves 2012, arXiv:1211.3711; Sutskever et al. 2014, arXiv:1409.3215): several texts at a time, the likeliest so far.

Shapes: B samples, P tokens that a text begins with, K beams, N tokens written, V vocabulary, C candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from orchestrator.models.objectives.reading_on import Decoder


def likeliest_written(
    decoder: Decoder,
    begun_BP: Tensor,
    *,
    tokens: int,
    ends: Sequence[int],
    beams: int,
    length_penalty: float,
    until_ended: bool = False,
) -> Tensor:
    """How the best text found for each sample goes on: (B, N) int64, the first end token from its end on. A text that N tokens cut
    counts as ended.

    Texts are compared by their logarithmic probability over their tokens ** ``length_penalty``. One that ends is put aside, if it is
    among its sample's K likeliest, and the search goes on with the K likeliest that do not.

    Args:
        decoder: what is asked for the next token.
        begun_BP: what each text begins with, at least one token.
        tokens: N.
        ends: tokens of which any ends a text; none: all have N tokens.
        beams: K.
        length_penalty: 0 or more: 0 compares sums, 1 means.
        until_ended: whether to stop once no sample can find a better text, which asks the device after each token.
    """
    device, (samples, begun) = begun_BP.device, begun_BP.shape
    filled = ends[0] if ends else 0
    end_E = torch.tensor(list(ends), dtype=torch.int64, device=device)
    text_BKN = torch.full((samples, beams, begun + tokens), filled, dtype=torch.int64, device=device)
    text_BKN[:, :, :begun] = begun_BP[:, None]
    score_BK = torch.full((samples, beams), -math.inf, device=device)
    score_BK[:, 0] = 0.0  # all beams begin alike: one of them is asked
    best_BN, best_B = text_BKN[:, 0, begun:].clone(), torch.full((samples,), -math.inf, device=device)
    sample_B1 = torch.arange(samples, device=device)[:, None]
    asked = 1
    for place in range(tokens):
        logits_MV = decoder.next_logits(text_BKN[:, :asked, : begun + place].flatten(0, 1))
        likely_BKV = logits_MV.float().log_softmax(-1).unflatten(0, (samples, asked))
        vocabulary = likely_BKV.shape[2]
        total_BF = (score_BK[:, :, None] + likely_BKV).flatten(1)
        # if all ends of the K likeliest texts come first, K others follow
        total_BC, choice_BC = total_BF.topk(min((1 + len(ends)) * beams, total_BF.shape[1]))
        from_BC, token_BC = choice_BC // vocabulary, choice_BC % vocabulary
        ends_BC = torch.isin(token_BC, end_E) | (place == tokens - 1)

        compared_BK = (total_BC / (place + 1) ** length_penalty).masked_fill(~ends_BC, -math.inf)[:, :beams]
        ended_B, which_B = compared_BK.max(1)
        ended_BN = text_BKN[sample_B1[:, 0], from_BC[sample_B1[:, 0], which_B], begun:]
        ended_BN[:, place] = token_BC[sample_B1[:, 0], which_B]
        best_BN = torch.where((ended_B > best_B)[:, None], ended_BN, best_BN)
        best_B = torch.maximum(best_B, ended_B)

        score_BK, kept_BK = total_BC.masked_fill(ends_BC, -math.inf).topk(beams)
        from_BK = from_BC.gather(1, kept_BK)
        text_BKN = text_BKN[sample_B1, from_BK]
        text_BKN[:, :, begun + place] = token_BC.gather(1, kept_BK)
        decoder.choose((sample_B1 * asked + from_BK.clamp(max=asked - 1)).flatten())
        asked = beams
        # a longer text divides its sum, which only falls, by at most so much
        if until_ended and bool((best_B >= score_BK[:, 0] / tokens**length_penalty).all()):
            break
    return best_BN
