"""Transformer with an encoder and a decoder (Vaswani et al. 2017, arXiv:1706.03762).

Its options are those of ``gpt``: sinusoidal, learned or rotary positions, LayerNorm or RMSNorm after each branch or before it, ReLU, GELU or
SwiGLU, grouped-query attention, tied embeddings.

Shapes: B samples, S tokens of the source, T of the target, W width, H query heads, G key and value heads, D width of a head,
V vocabulary of the target.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.models.attention import Seen, attend
from orchestrator.models.base import Modules
from orchestrator.models.configs import ObjectiveConfig, TransformerConfig
from orchestrator.models.gpt import FeedForward, Past, norm, rotated, rotations

Rotation = tuple[Tensor, Tensor]


@dataclass
class LayerPast:
    """What one block of the decoder keeps."""

    target: Past = field(default_factory=Past)
    source: Past = field(default_factory=Past)


@dataclass
class DecoderPast:
    """What the encoder made of the source (B, S, W), and what each block of the decoder keeps."""

    layers: list[LayerPast]
    memory: Tensor | None = None

    @property
    def length(self) -> int:
        """Tokens of the target that were read."""
        return self.layers[0].target.length

    def choose(self, row_N: Tensor) -> None:
        """Keep these rows, in this order."""
        if self.memory is not None:
            self.memory = self.memory[row_N]
        for layer in self.layers:
            layer.target.choose(row_N)
            layer.source.choose(row_N)


class Attention(nn.Module):
    """Attention to the tokens themselves, or to those of the source."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_width = config.width // config.heads
        groups = config.heads // config.heads_per_key_value
        self.query = nn.Linear(config.width, config.width, bias=config.bias)
        self.key_value = nn.Linear(config.width, 2 * groups * self.head_width, bias=config.bias)
        self.project = nn.Linear(config.width, config.width, bias=config.bias)
        self.dropout = config.dropout

    def forward(
        self,
        x_BTW: Tensor,
        source_BSW: Tensor | None = None,
        *,
        mask_B11S: Tensor | None = None,
        causal: bool = False,
        rotation: Rotation | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """(B, T, W) -> (B, T, W).

        Args:
            x_BTW: What asks.
            source_BSW: What is asked. Default: the same.
            mask_B11S: Which of that are real; all, where there is none.
            causal: Whether a token sees none after it.
            rotation: Of the tokens' positions.
            past: Keys and values that were made before; those of a source are made once.
        """
        q_BHTD = self._heads(self.query(x_BTW))
        one_more = past is not None and past.length > 0
        if one_more and source_BSW is not None:
            assert past is not None
            k_BGSD, v_BGSD = past.kept
        else:
            asked = x_BTW if source_BSW is None else source_BSW
            k_BGSD, v_BGSD = (self._heads(part) for part in self.key_value(asked).chunk(2, dim=2))
            if rotation is not None:
                q_BHTD, k_BGSD = rotated(q_BHTD, *rotation), rotated(k_BGSD, *rotation)
            if past is not None:
                k_BGSD, v_BGSD = past.with_more(k_BGSD, v_BGSD)
        seen = None if mask_B11S is None else Seen(mask_B1TT=mask_B11S)
        y_BTW = attend(
            q_BHTD,
            k_BGSD,
            v_BGSD,
            seen,
            sees_all=not causal or one_more,
            dropout=self.dropout if self.training else 0.0,
        )
        projected_BTW: Tensor = self.project(y_BTW)
        return projected_BTW

    def _heads(self, x_BTN: Tensor) -> Tensor:
        return x_BTN.unflatten(2, (-1, self.head_width)).transpose(1, 2)


class Branch(nn.Module):
    """Adds what a part makes to what came in, normalized after that or before."""

    def __init__(self, config: TransformerConfig, part: nn.Module) -> None:
        super().__init__()
        self.part, self.norm, self.norm_first = part, norm(config), config.norm_first
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()

    def forward(self, x_BTW: Tensor, *given: Any, **more: Any) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        if self.norm_first:
            return x_BTW + self.dropout(self.part(self.norm(x_BTW), *given, **more))
        y_BTW: Tensor = self.norm(x_BTW + self.dropout(self.part(x_BTW, *given, **more)))
        return y_BTW


class EncoderBlock(nn.Module):
    """Self-attention of the source's real tokens, then feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = Branch(config, Attention(config))
        self.feedforward = Branch(config, FeedForward(config))

    def forward(self, x_BSW: Tensor, mask_B11S: Tensor | None, rotation: Rotation | None) -> Tensor:
        """(B, S, W) -> (B, S, W)."""
        x_BSW = self.attention(x_BSW, mask_B11S=mask_B11S, rotation=rotation)
        y_BSW: Tensor = self.feedforward(x_BSW)
        return y_BSW


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the source, then feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention = Branch(config, Attention(config))
        self.source_attention = Branch(config, Attention(config))
        self.feedforward = Branch(config, FeedForward(config))

    def forward(
        self,
        x_BTW: Tensor,
        memory_BSW: Tensor,
        mask_B11S: Tensor | None,
        rotation: Rotation | None,
        past: LayerPast | None = None,
    ) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        own, of_source = (past.target, past.source) if past is not None else (None, None)
        x_BTW = self.attention(x_BTW, causal=True, rotation=rotation, past=own)
        x_BTW = self.source_attention(x_BTW, memory_BSW, mask_B11S=mask_B11S, past=of_source)
        y_BTW: Tensor = self.feedforward(x_BTW)
        return y_BTW


class Transformer(nn.Module):
    """Embeddings, encoder, decoder, and logits over the target's vocabulary."""

    block_classes: tuple[type[nn.Module], ...] = (EncoderBlock, DecoderBlock)

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        assert config.vocabulary is not None and config.written_tokens is not None
        self.positions, self.width = config.positions, config.width
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        shared = config.tied_embeddings and config.written_tokens == config.vocabulary
        self.target_embedding = (
            self.token_embedding if shared else nn.Embedding(config.written_tokens, config.width)
        )
        longest = max(config.context, config.longest_target)
        if config.positions == "rotary":
            cos_TD, sin_TD = rotations(longest, config.width // config.heads, config.rotary_base)
            self.register_buffer("rotary_cos", cos_TD, persistent=False)
            self.register_buffer("rotary_sin", sin_TD, persistent=False)
        elif config.positions == "sinusoidal":
            self.register_buffer("sines", sines(longest, config.width), persistent=False)
        else:
            self.position_embedding = nn.Embedding(config.context, config.width)
            self.target_position_embedding = nn.Embedding(config.longest_target, config.width)
        self.dropout = nn.Dropout(config.dropout) if config.dropout else nn.Identity()
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))
        self.decoder = nn.ModuleList(
            DecoderBlock(config) for _ in range(config.decoder_layers or config.layers)
        )
        self.encoder_norm = norm(config) if config.norm_first else nn.Identity()
        self.decoder_norm = norm(config) if config.norm_first else nn.Identity()
        self.head = nn.Linear(config.width, config.written_tokens, bias=False)
        self.apply(_initialize)
        if config.tied_embeddings:
            self.head.weight = self.target_embedding.weight

    def new_past(self) -> DecoderPast:
        """Of no token."""
        return DecoderPast([LayerPast() for _ in self.decoder])

    def forward(
        self,
        tokens_BS: Tensor,
        length_B: Tensor | None,
        target_BT: Tensor,
        past: DecoderPast | None = None,
    ) -> Tensor:
        """Tokens of the source, how many are real, and what the decoder reads -> logits (B, T, V) of each next token.

        With a past the source is encoded once, the target's tokens go on from those that it has, all at first and then one at a
        time, and are added to it; the logits are those after the last (B, 1, V).
        """
        memory_BSW = past.memory if past is not None else None
        if memory_BSW is None:
            memory_BSW = self.encode(tokens_BS, length_B)
        if past is not None:
            past.memory = memory_BSW
        return self.decode(memory_BSW, length_B, target_BT, past)

    def encode(self, tokens_BS: Tensor, length_B: Tensor | None) -> Tensor:
        """Tokens of the source and how many are real -> what the decoder is told of each (B, S, W)."""
        mask_B11S = _real(length_B, tokens_BS.shape[1])
        x_BSW, rotation = self._embedded(tokens_BS, 0, of_target=False)
        for block in self.encoder:
            x_BSW = block(x_BSW, mask_B11S, rotation)
        memory_BSW: Tensor = self.encoder_norm(x_BSW)
        return memory_BSW

    def decode(
        self,
        memory_BSW: Tensor,
        length_B: Tensor | None,
        target_BT: Tensor,
        past: DecoderPast | None = None,
    ) -> Tensor:
        """What the encoder made of the source, how many of its tokens are real, and what the decoder reads -> as ``forward``."""
        mask_B11S = _real(length_B, memory_BSW.shape[1])
        begin = past.length if past is not None else 0
        x_BTW, rotation = self._embedded(target_BT, begin, of_target=True)
        for index, block in enumerate(self.decoder):
            kept = past.layers[index] if past is not None else None
            x_BTW = block(x_BTW, memory_BSW, mask_B11S, rotation, kept)
        if past is not None:
            x_BTW = x_BTW[:, -1:]
        logits_BTV: Tensor = self.head(self.decoder_norm(x_BTW))
        return logits_BTV

    def parts(self) -> dict[str, nn.Module]:
        """Encoder and decoder apart."""
        return {"encoder": _Encoder(self), "decoder": _Decoder(self)}

    def _embedded(self, tokens_BT: Tensor, begin: int, *, of_target: bool) -> tuple[Tensor, Rotation | None]:
        """Tokens (B, T), of which ``begin`` stand before -> (B, T, W), and the rotation of their positions."""
        end = begin + tokens_BT.shape[1]
        x_BTW = (self.target_embedding if of_target else self.token_embedding)(tokens_BT) * math.sqrt(
            self.width
        )
        if self.positions == "rotary":
            rotation = self.get_buffer("rotary_cos")[begin:end], self.get_buffer("rotary_sin")[begin:end]
            return self.dropout(x_BTW), rotation
        if self.positions == "sinusoidal":
            place_TW = self.get_buffer("sines")[begin:end]
        else:
            table = self.target_position_embedding if of_target else self.position_embedding
            place_TW = table.weight[begin:end]
        return self.dropout(x_BTW + place_TW), None


class _Encoder(nn.Module):
    """A model's encoder with nothing of its decoder."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = _without(
            model, "decoder", "decoder_norm", "head", "target_embedding", "target_position_embedding"
        )

    def forward(self, tokens_BS: Tensor, length_B: Tensor | None) -> Tensor:
        """See ``Transformer.encode``."""
        return self.model.encode(tokens_BS, length_B)


class _Decoder(nn.Module):
    """A model's decoder with nothing of its encoder."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = _without(model, "encoder", "encoder_norm", "token_embedding", "position_embedding")

    def forward(self, memory_BSW: Tensor, length_B: Tensor | None, target_BT: Tensor) -> Tensor:
        """See ``Transformer.decode``."""
        return self.model.decode(memory_BSW, length_B, target_BT)


def _without(model: Transformer, *names: str) -> Transformer:
    """A copy that lacks these modules; one that stands under another name too stays there."""
    part = copy.deepcopy(model)
    for name in names:
        if name in dict(part.named_children()):
            delattr(part, name)
    return part


def _real(length_B: Tensor | None, longest: int) -> Tensor | None:
    """Which of so many tokens are real (B, 1, 1, S); None: all."""
    if length_B is None:
        return None
    place_S = torch.arange(longest, device=length_B.device)
    return (place_S < length_B[:, None])[:, None, None]


def sines(longest: int, width: int) -> Tensor:
    """Sine and cosine (T, W) in turn of each position, of wavelengths from 2 pi to 10,000 times that (section 3.5)."""
    frequency_D = 10000.0 ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)
    angle_TD = torch.outer(torch.arange(longest, dtype=torch.float32), frequency_D)
    return torch.stack((angle_TD.sin(), angle_TD.cos()), dim=2).flatten(1)


def _initialize(module: nn.Module) -> None:
    """Xavier's (Glorot and Bengio 2010) for layers; embeddings of deviation width ** -0.5, which are scaled up again."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def build(config: TransformerConfig, objective: ObjectiveConfig) -> Modules:
    """Encoder and decoder."""
    return {"model": Transformer(config)}
