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

from orchestrator.models.attention import Seen, attend, positions_in_documents, seen_in_documents
from orchestrator.models.base import Modules
from orchestrator.models.configs import GptConfig, ObjectiveConfig, TransformerConfig
from orchestrator.models.language_head import LanguageHead, Scoring


def norm(config: GptConfig | TransformerConfig) -> nn.Module:
    """The norm of a branch, or before the output layer."""
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

    @property
    def kept(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens that were read, of which there is one at least."""
        assert self._keys_and_values is not None
        return self._keys_and_values

    def choose(self, row_N: Tensor) -> None:
        """Keep these rows, in this order."""
        if self._keys_and_values is not None:
            keys_BGTD, values_BGTD = self._keys_and_values
            self._keys_and_values = keys_BGTD[row_N], values_BGTD[row_N]

    def with_more(self, k_BGTD: Tensor, v_BGTD: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, these at the end."""
        if self._keys_and_values is not None:
            k_BGTD = torch.cat((self._keys_and_values[0], k_BGTD), dim=2)
            v_BGTD = torch.cat((self._keys_and_values[1], v_BGTD), dim=2)
        self._keys_and_values = k_BGTD, v_BGTD
        return self._keys_and_values


class LayerPasts(list[Past]):
    """What each layer keeps."""

    def choose(self, row_N: Tensor) -> None:
        """Keep these rows, in this order."""
        for past in self:
            past.choose(row_N)


class Attention(nn.Module):
    """Causal self-attention; several query heads may share one key and value head."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.head_width = config.width // config.heads
        self.key_value_heads = config.heads // config.heads_per_key_value
        key_value_width = self.key_value_heads * self.head_width
        self.widths = (config.width, key_value_width, key_value_width)
        self.query_key_value = nn.Linear(config.width, sum(self.widths), bias=config.bias)
        self.project = nn.Linear(config.width, config.width, bias=config.bias)
        self.dropout = config.dropout

    def forward(
        self,
        x_BTW: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        seen: Seen | None,
        past: Past | None = None,
    ) -> Tensor:
        """(B, T, W) -> (B, T, W). Where nothing else is said each token sees itself and all before it, of the past too."""
        qk_BTN, v_BTN = self.query_key_value(x_BTW).split(
            (self.widths[0] + self.widths[1], self.widths[2]), dim=2
        )
        qk_BNTD = qk_BTN.unflatten(2, (-1, self.head_width)).transpose(1, 2)
        v_BGTD = v_BTN.unflatten(2, (-1, self.head_width)).transpose(1, 2)
        if rotation is not None:  # both at once: on small models the number of operations is what counts
            qk_BNTD = rotated(qk_BNTD, *rotation)
        q_BHTD, k_BGTD = qk_BNTD.split((qk_BNTD.shape[1] - self.key_value_heads, self.key_value_heads), dim=1)
        one_more = past is not None and past.length > 0
        if past is not None:
            k_BGTD, v_BGTD = past.with_more(k_BGTD, v_BGTD)
        dropout = self.dropout if self.training else 0.0
        y_BTW = attend(q_BHTD, k_BGTD, v_BGTD, seen, sees_all=one_more, dropout=dropout)
        projected_BTW: Tensor = self.project(y_BTW)
        return projected_BTW


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
    """Two layers with ReLU or GELU, or three with a SiLU gate."""

    def __init__(self, config: GptConfig | TransformerConfig) -> None:
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
        elif self.kind == "relu":
            x_BTF = F.relu(self.expand(x_BTW))
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
        seen: Seen | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        x_BTW = x_BTW + self.dropout(self.attention(self.attention_norm(x_BTW), rotation, seen, past))
        return x_BTW + self.dropout(self.feedforward(self.feedforward_norm(x_BTW)))


class Gpt(nn.Module):
    """Embeddings, blocks, a last norm, and logits over the vocabulary."""

    block_classes: tuple[type[nn.Module], ...] = (Block,)

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        assert config.vocabulary is not None
        self.rotary = config.positions == "rotary"
        self.head_width, self.attention_dropout = config.width // config.heads, config.dropout
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

    def new_past(self) -> LayerPasts:
        """Of no token."""
        return LayerPasts(Past() for _ in self.layers)

    def forward(
        self,
        tokens_BT: Tensor,
        document_BT: Tensor | None = None,
        border_K: Tensor | None = None,
        past: LayerPasts | None = None,
        scoring: Scoring | None = None,
    ) -> Any:
        """Token numbers (B, T), and the document that each belongs to -> logits (B, T, V), or with a scoring its scores.

        The documents' borders (see ``attention.Seen``) change no number: a GPU is sooner done where it has them.

        With a past the tokens go on from those that it has, all at first and then one at a time, and are added to it;
        the logits are those after the last (B, 1, V).
        """
        begin = past[0].length if past else 0
        end = begin + tokens_BT.shape[1]
        x_BTW = self.token_embedding(tokens_BT)
        seen = None
        if document_BT is not None:
            seen = seen_in_documents(
                document_BT,
                border_K,
                x_BTW,
                head_width=self.head_width,
                dropout=self.attention_dropout if self.training else 0.0,
            )
        rotation = None
        if self.rotary:
            rotation = self.get_buffer("rotary_cos")[begin:end], self.get_buffer("rotary_sin")[begin:end]
        elif seen is None:
            x_BTW = x_BTW + self.position_embedding.weight[begin:end]
        else:
            x_BTW = x_BTW + self.position_embedding(positions_in_documents(seen, tokens_BT.shape))
        x_BTW = self.dropout(x_BTW)
        for index, block in enumerate(self.layers):
            x_BTW = block(x_BTW, rotation, seen, past[index] if past else None)
        if past:
            x_BTW = x_BTW[:, -1:]
        return self.head(self.norm(x_BTW), scoring)


def _initialize(module: nn.Module, deviation: float) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=deviation)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def build(config: GptConfig, objective: ObjectiveConfig) -> Modules:
    """The decoder."""
    return {"model": Gpt(config)}
