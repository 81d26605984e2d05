"""Pre-norm transformer decoder: GPT-2 (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners")
and, by its options, Llama (Touvron et al. 2023, arXiv:2302.13971).

Options: learned or rotary positions (Su et al. 2021, arXiv:2104.09864), LayerNorm or RMSNorm (Zhang and Sennrich
2019, arXiv:1910.07467), GELU or SwiGLU (Shazeer 2020, arXiv:2002.05202), grouped-query attention (Ainslie et al.
2023, arXiv:2305.13245), tied embeddings (Press and Wolf 2016, arXiv:1608.05859).

Shapes: B samples, T tokens, W width, H query heads, G key and value heads, D width of a head, F feed-forward
width, V vocabulary.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.base import Modules
from orchestrator.models.configs import GptConfig, ObjectiveConfig
from orchestrator.models.language_head import LanguageHead, Scoring


def norm(config: GptConfig) -> nn.Module:
    """The norm before each branch and before the output layer."""
    if config.norm == "rms":
        return nn.RMSNorm(config.width, eps=config.norm_epsilon)
    return nn.LayerNorm(config.width, eps=config.norm_epsilon, bias=config.bias)


class Past:
    """Keys and values (B, G, T, D) of the tokens that one layer has read."""

    def __init__(self) -> None:
        self._keys_and_values: tuple[Tensor, Tensor] | None = None

    @property
    def length(self) -> int:
        """Tokens that were read."""
        return 0 if self._keys_and_values is None else self._keys_and_values[0].shape[2]

    def with_more(self, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, these at the end."""
        if self._keys_and_values is not None:
            k_BGTD = torch.cat((self._keys_and_values[0], k_BGTD), dim=2)
            v_BGTD = torch.cat((self._keys_and_values[1], v_BGTD), dim=2)
        self._keys_and_values = k_BGTD, v_BGTD
        return self._keys_and_values


class Attention(nn.Module):
    """Causal self-attention; several query heads may share one key and value head."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.head_width = config.width // config.heads
        self.key_value_heads = config.heads // config.heads_per_key_value
        self.shared = config.heads_per_key_value > 1
        key_value_width = self.key_value_heads * self.head_width
        self.widths = (config.width, key_value_width, key_value_width)
        self.query_key_value = nn.Linear(config.width, sum(self.widths), bias=config.bias)
        self.project = nn.Linear(config.width, config.width, bias=config.bias)
        self.dropout = config.dropout

    def forward(
        self,
        x_BTW: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        mask_B1TT: Tensor | None,
        past: Past | None = None,
    ) -> Tensor:
        """(B, T, W) -> (B, T, W). Without a mask each token sees itself and all before it, of the past too."""
        qk_BTN, v_BTN = self.query_key_value(x_BTW).split(
            (self.widths[0] + self.widths[1], self.widths[2]), dim=2
        )
        qk_BNTD = qk_BTN.unflatten(2, (-1, self.head_width)).transpose(1, 2)
        v_BGTD = v_BTN.unflatten(2, (-1, self.head_width)).transpose(1, 2)
        if rotation is not None:  # both at once: on small models the number of operations is what counts
            qk_BNTD = rotated(qk_BNTD, *rotation)
        q_BHTD, k_BGTD = qk_BNTD.split((qk_BNTD.shape[1] - self.key_value_heads, self.key_value_heads), dim=1)
        if past is not None:
            k_BGTD, v_BGTD = past.with_more(k_BGTD, v_BGTD)
        spreads = self.shared and mask_B1TT is not None and mask_B1TT.is_cuda
        if spreads:  # of a GPU's kernels none but the slowest takes a mask and shared heads at once
            k_BGTD, v_BGTD = (self._for_each_query(x) for x in (k_BGTD, v_BGTD))
        y_BHTD = F.scaled_dot_product_attention(
            q_BHTD,
            k_BGTD,
            v_BGTD,
            attn_mask=mask_B1TT,
            dropout_p=self.dropout if self.training else 0.0,
            # one token after others sees all of them
            is_causal=mask_B1TT is None and q_BHTD.shape[2] == k_BGTD.shape[2],
            enable_gqa=self.shared and not spreads,
        )
        y_BTW: Tensor = self.project(y_BHTD.transpose(1, 2).flatten(2))
        return y_BTW

    def _for_each_query(self, x_BGTD: Tensor) -> Tensor:
        """(B, G, T, D) -> (B, H, T, D), without a scatter in the backward."""
        sharing = self.widths[0] // self.widths[1]
        return x_BGTD[:, :, None].expand(-1, -1, sharing, -1, -1).flatten(1, 2)


def rotated(x_BHTD: Tensor, cos_TD: Tensor, sin_TD: Tensor) -> Tensor:
    """Each pair (d, d + D/2) turned by its position's angle; the sines of the first half are negative."""
    swapped_BHTD = x_BHTD.roll(x_BHTD.shape[-1] // 2, dims=-1)
    return torch.addcmul(x_BHTD * cos_TD.to(x_BHTD.dtype), swapped_BHTD, sin_TD.to(x_BHTD.dtype))


def rotations(context: int, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine (T, D) of each position's angles: what ``rotated`` takes."""
    frequency_D = base ** -(torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angle_TD = torch.outer(torch.arange(context, dtype=torch.float32), frequency_D)
    sin_TD = angle_TD.sin()
    return angle_TD.cos().repeat(1, 2), torch.cat((-sin_TD, sin_TD), dim=1)


class FeedForward(nn.Module):
    """Two layers with GELU, or three with a SiLU gate."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        hidden = round(config.width * config.feedforward_ratio)
        self.kind = config.feedforward
        self.expand = nn.Linear(config.width, hidden * (2 if self.kind == "swiglu" else 1), bias=config.bias)
        self.project = nn.Linear(hidden, config.width, bias=config.bias)

    def forward(self, x_BTW: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        if self.kind == "swiglu":
            gate_BTF, x_BTF = self.expand(x_BTW).chunk(2, dim=-1)
            x_BTF = F.silu(gate_BTF) * x_BTF
        else:
            x_BTF = F.gelu(self.expand(x_BTW), approximate="tanh" if self.kind == "gelu_tanh" else "none")
        y_BTW: Tensor = self.project(x_BTF)
        return y_BTW


class Block(nn.Module):
    """Attention, then feed-forward, each added to what came in."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.attention_norm = norm(config)
        self.attention = Attention(config)
        self.feedforward_norm = norm(config)
        self.feedforward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(
        self,
        x_BTW: Tensor,
        rotation: tuple[Tensor, Tensor] | None = None,
        mask_B1TT: Tensor | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        x_BTW = x_BTW + self.dropout(self.attention(self.attention_norm(x_BTW), rotation, mask_B1TT, past))
        return x_BTW + self.dropout(self.feedforward(self.feedforward_norm(x_BTW)))


class Gpt(nn.Module):
    """Embeddings, blocks, a last norm, and logits over the vocabulary."""

    block_classes: tuple[type[nn.Module], ...] = (Block,)

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        assert config.vocabulary is not None
        self.rotary = config.positions == "rotary"
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        if self.rotary:
            cos_TD, sin_TD = rotations(config.context, config.width // config.heads, config.rotary_base)
            self.register_buffer("rotary_cos", cos_TD, persistent=False)
            self.register_buffer("rotary_sin", sin_TD, persistent=False)
        else:
            self.position_embedding = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = norm(config)
        self.head = LanguageHead(config.width, config.vocabulary, bias=False)
        self.apply(partial(_initialize, deviation=config.initial_deviation))
        for name, parameter in self.named_parameters():
            if name.endswith("project.weight"):  # the residual stream keeps its variance however deep it is
                nn.init.normal_(parameter, std=config.initial_deviation / math.sqrt(2 * config.layers))
        if config.tied_embeddings:
            self.head.weight = self.token_embedding.weight

    def new_past(self) -> list[Past]:
        """Of no token, one for each layer."""
        return [Past() for _ in self.layers]

    def forward(
        self,
        tokens_BT: Tensor,
        document_BT: Tensor | None = None,
        past: list[Past] | None = None,
        scoring: Scoring | None = None,
    ) -> Any:
        """Token numbers (B, T), and the document that each belongs to -> logits (B, T, V), or with a scoring its scores.

        With a past the tokens go on from those that it has, all at first and then one at a time, and are added to it;
        the logits are those after the last (B, 1, V).
        """
        begin = past[0].length if past else 0
        end = begin + tokens_BT.shape[1]
        x_BTW = self.token_embedding(tokens_BT)
        mask_B1TT = None if document_BT is None else document_mask(document_BT)
        rotation = None
        if self.rotary:
            rotation = self.get_buffer("rotary_cos")[begin:end], self.get_buffer("rotary_sin")[begin:end]
        elif mask_B1TT is None:
            x_BTW = x_BTW + self.position_embedding.weight[begin:end]
        else:
            x_BTW = x_BTW + self.position_embedding(positions_in_document(mask_B1TT))
        x_BTW = self.dropout(x_BTW)
        if mask_B1TT is not None and mask_B1TT.is_cuda:
            mask_B1TT = as_bias(mask_B1TT, x_BTW.dtype)
        for index, block in enumerate(self.layers):
            x_BTW = block(x_BTW, rotation, mask_B1TT, past[index] if past else None)
        if past:
            x_BTW = x_BTW[:, -1:]
        return self.head(self.norm(x_BTW), scoring)


def document_mask(document_BT: Tensor) -> Tensor:
    """Whether (B, 1, T, T) a token sees another: not after it, and of the same document."""
    length = document_BT.shape[1]
    causal_TT = torch.ones(length, length, dtype=torch.bool, device=document_BT.device).tril()
    return ((document_BT[:, :, None] == document_BT[:, None, :]) & causal_TT)[:, None]


def as_bias(mask_B1TT: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention adds to its scores: 0 where a token is seen, else -inf. A GPU's kernels want it so, in the format that
    they compute in, and each would make it anew of a mask.
    """
    if torch.is_autocast_enabled(mask_B1TT.device.type):
        dtype = torch.get_autocast_dtype(mask_B1TT.device.type)
    return torch.zeros_like(mask_B1TT, dtype=dtype).masked_fill_(~mask_B1TT, -math.inf)


def positions_in_document(mask_B1TT: Tensor) -> Tensor:
    """Each token's place (B, T) in its document, or in the part of it that the block holds: how many before it are seen."""
    return mask_B1TT.sum(-1)[:, 0] - 1


def _initialize(module: nn.Module, deviation: float) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=deviation)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def build(config: GptConfig, objective: ObjectiveConfig) -> Modules:
    """The decoder."""
    return {"model": Gpt(config)}
