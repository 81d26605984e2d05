"""Causal attention of tokens to those before them, or to those of their own document where several are packed.

What a token may see is told once a forward, in the way that the fastest kernel wants it; this file alone chooses which.

Shapes: B samples, T tokens, H query heads, G key and value heads, D width of a head, K documents of a batch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

WIDEST_HEAD = 192
"""Widest head whose backward flash attention (Dao 2023, arXiv:2307.08691) has on every GPU that runs it; widths are also
multiples of 8."""
HALVES = (torch.bfloat16, torch.float16)
"""Formats that it computes in."""
FIRST_WITH_FLASH = (8, 0)
"""Compute capability from which on GPUs run them: Ampere's."""


class Seen(NamedTuple):
    """Which tokens a token sees of those before it, where not all: one of two ways to tell it."""

    mask_B1TT: Tensor | None = None
    """Whether one sees another; on a GPU what is added to the score."""
    border_K: Tensor | None = None
    """int32 (K + 1,): where documents begin in all samples' tokens, one after another, and where the last ends."""


def seen_in_documents(
    document_BT: Tensor, border_K: Tensor | None, x: Tensor, *, head_width: int, dropout: float
) -> Seen:
    """What tokens see of their own document.

    Args:
        document_BT: The number of each token's document.
        border_K: See ``Seen``; None where nobody counted the documents.
        x: What a forward computes with: its device and format.
        head_width: Width of a head.
        dropout: Probability with which a weight of attention is left out.
    """
    dtype = computing_dtype(x)
    if border_K is not None and not dropout and has_kernel(x.device, dtype, head_width):
        return Seen(border_K=border_K)
    mask_B1TT = document_mask(document_BT)
    return Seen(mask_B1TT=as_bias(mask_B1TT, dtype) if is_gpu(x.device) else mask_B1TT)


def computing_dtype(x: Tensor) -> torch.dtype:
    """The format that products of it are computed in."""
    if torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def has_kernel(device: torch.device, dtype: torch.dtype, head_width: int) -> bool:
    """Whether flash attention takes documents by their borders there."""
    return (
        is_gpu(device)
        and dtype in HALVES
        and head_width % 8 == 0
        and head_width <= WIDEST_HEAD
        and runs_flash(device)
    )


def is_gpu(device: torch.device) -> bool:
    """Whether attention there is a GPU's."""
    return device.type == "cuda"


def runs_flash(device: torch.device) -> bool:
    """Whether the GPU is there and new enough."""
    return (
        torch.cuda.is_available()
        and torch.backends.cuda.is_flash_attention_available()
        and torch.cuda.get_device_capability(device) >= FIRST_WITH_FLASH
    )


def attend(
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    v_BGTD: Tensor,
    seen: Seen | None = None,
    *,
    sees_all: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Attention's output (B, T, H * D).

    Args:
        q_BHTD: Queries.
        k_BGTD: Keys; a head is shared by as many heads of queries.
        v_BGTD: Values.
        seen: None where each token sees itself and all before it.
        sees_all: Whether each query sees all keys, where no mask says otherwise: of a source, or those of one token after all
            others.
        dropout: Probability with which a weight is left out.
    """
    if seen is not None and seen.border_K is not None:
        return _within_borders(q_BHTD, k_BGTD, v_BGTD, seen.border_K)
    mask_B1TT = None if seen is None else seen.mask_B1TT
    sharing = q_BHTD.shape[1] // k_BGTD.shape[1]
    shared = sharing > 1
    if shared and is_gpu(q_BHTD.device) and not _flash_takes(q_BHTD, mask_B1TT):
        # of a GPU's other kernels none but the slowest takes shared heads
        k_BGTD, v_BGTD, shared = for_each_query(k_BGTD, sharing), for_each_query(v_BGTD, sharing), False
    y_BHTD = F.scaled_dot_product_attention(
        q_BHTD,
        k_BGTD,
        v_BGTD,
        attn_mask=mask_B1TT,
        dropout_p=dropout,
        is_causal=mask_B1TT is None and not sees_all,
        enable_gqa=shared,
    )
    return y_BHTD.transpose(1, 2).flatten(2)


def _flash_takes(q_BHTD: Tensor, mask_B1TT: Tensor | None) -> bool:
    return mask_B1TT is None and computing_dtype(q_BHTD) in HALVES and runs_flash(q_BHTD.device)


def _within_borders(q_BHTD: Tensor, k_BGTD: Tensor, v_BGTD: Tensor, border_K: Tensor) -> Tensor:
    """The samples' tokens as one row of documents, each of any length; no document needs to be as long as is allowed."""
    samples, heads, length, _ = q_BHTD.shape
    q_NHD, k_NGD, v_NGD = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHTD, k_BGTD, v_BGTD))
    y_NHD: Any = varlen_attn(
        q_NHD,
        k_NGD,
        v_NGD,
        border_K,
        border_K,
        length,
        length,
        window_size=(-1, 0),  # torch's word for causal
        enable_gqa=heads != k_BGTD.shape[1],
    )
    y_BTW: Tensor = y_NHD.unflatten(0, (samples, length)).flatten(2)
    return y_BTW


def for_each_query(x_BGTD: Tensor, sharing: int) -> Tensor:
    """(B, G, T, D) -> (B, H, T, D), without a scatter in the backward."""
    return x_BGTD[:, :, None].expand(-1, -1, sharing, -1, -1).flatten(1, 2)


def document_mask(document_BT: Tensor) -> Tensor:
    """Whether (B, 1, T, T) a token sees another: not after it, and of the same document."""
    length = document_BT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=document_BT.device).tril()
    return ((document_BT[:, :, None] == document_BT[:, None, :]) & causal_TT)[:, None]


def as_bias(mask_B1TT: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention adds to its scores: 0 where a token is seen, else -inf. A GPU's kernels want it so, in the format that
    they compute in, and each would make it anew of a mask.
    """
    return torch.zeros_like(mask_B1TT, dtype=dtype).masked_fill_(~mask_B1TT, -math.inf)


def positions_in_documents(seen: Seen, shape: torch.Size) -> Tensor:
    """Each token's place (B, T) in its document, or in the part of it that the sample holds: how many before it are seen."""
    if seen.mask_B1TT is not None:
        sees = seen.mask_B1TT if seen.mask_B1TT.dtype == torch.bool else seen.mask_B1TT == 0
        return sees.sum(-1)[:, 0] - 1
    assert seen.border_K is not None
    place_N = torch.arange(shape.numel(), device=seen.border_K.device)
    document_N = torch.bucketize(place_N, seen.border_K, right=True) - 1
    return (place_N - seen.border_K[document_N]).view(shape)


def borders_of(document_BT: np.ndarray) -> np.ndarray | None:
    """Where documents begin in a batch's tokens, one sample after another, and where the last ends: int32 (K + 1,).

    Counted on the host, which alone can without waiting for a device. K is a power of two, so that shapes are few:
    documents without tokens fill up. None where a document comes back within a sample: borders can't tell that.
    """
    begins_BT = np.ones(document_BT.shape, dtype=bool)
    np.not_equal(document_BT[:, 1:], document_BT[:, :-1], out=begins_BT[:, 1:])
    begin_K = np.flatnonzero(begins_BT)
    if _comes_back(document_BT, len(begin_K)):
        return None
    border_K = np.full((1 << (len(begin_K) - 1).bit_length()) + 1, document_BT.size, dtype=np.int32)
    border_K[: len(begin_K)] = begin_K
    return border_K


def _comes_back(document_BT: np.ndarray, runs: int) -> bool:
    """Whether equal numbers of a sample stand in several places."""
    if (document_BT[:, 1:] >= document_BT[:, :-1]).all():
        return False
    sorted_BT = np.sort(document_BT, axis=1)
    different = len(document_BT) + np.count_nonzero(sorted_BT[:, 1:] != sorted_BT[:, :-1])
    return bool(runs != different)


def without_last(border_K: Tensor, length: int) -> Tensor:
    """The borders once the last token of each sample, of ``length`` tokens, is left out."""
    return border_K - border_K // length
