"""Bidirectional transformer encoder, BERT (Devlin et al. 2018, arXiv:1810.04805), post-norm as in the paper.

One encoder, and a last part for each objective: hidden tokens, one answer a sequence, one answer a token.

Shapes: B samples, T tokens, K chosen tokens, W width, H heads, D width of a head, F feed-forward width,
V vocabulary, O outputs.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models.base import Modules
from orchestrator.models.configs import BertConfig, ObjectiveConfig
from orchestrator.models.language_head import LanguageHead, Scoring


class Attention(nn.Module):
    """Self-attention in which each token sees all real ones."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.head_width = config.width // config.heads
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.project = nn.Linear(config.width, config.width)
        self.dropout = config.dropout

    def forward(self, x_BTW: Tensor, mask_B11T: Tensor | None) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        q_BHTD, k_BHTD, v_BHTD = (
            part.unflatten(2, (-1, self.head_width)).transpose(1, 2)
            for part in self.query_key_value(x_BTW).chunk(3, dim=2)
        )
        dropout = self.dropout if self.training else 0.0
        y_BHTD = F.scaled_dot_product_attention(
            q_BHTD, k_BHTD, v_BHTD, attn_mask=mask_B11T, dropout_p=dropout
        )
        y_BTW: Tensor = self.project(y_BHTD.transpose(1, 2).flatten(2))
        return y_BTW


class Block(nn.Module):
    """Attention, then feed-forward, each added to what came in and then normalized."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        hidden = round(config.width * config.feedforward_ratio)
        self.attention = Attention(config)
        self.attention_norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.expand = nn.Linear(config.width, hidden)
        self.project = nn.Linear(hidden, config.width)
        self.feedforward_norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTW: Tensor, mask_B11T: Tensor | None = None) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        x_BTW = self.attention_norm(x_BTW + self.dropout(self.attention(x_BTW, mask_B11T)))
        y_BTW = self.project(F.gelu(self.expand(x_BTW)))
        z_BTW: Tensor = self.feedforward_norm(x_BTW + self.dropout(y_BTW))
        return z_BTW


class Encoder(nn.Module):
    """Embeddings of tokens, positions and segments, and the blocks."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        assert config.vocabulary is not None
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.segment_embedding = nn.Embedding(config.segments, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))

    def forward(self, tokens_BT: Tensor, length_B: Tensor | None, segment_BT: Tensor | None) -> Tensor:
        """Tokens (B, T), how many of each sequence are real, and the segment of each -> states (B, T, W)."""
        position_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
        if segment_BT is None:
            segment_BT = torch.zeros_like(tokens_BT)
        x_BTW = (
            self.token_embedding(tokens_BT)
            + self.segment_embedding(segment_BT)
            + self.position_embedding(position_T)
        )
        x_BTW = self.dropout(self.norm(x_BTW))
        mask_B11T = None if length_B is None else (position_T < length_B[:, None])[:, None, None]
        for block in self.layers:
            x_BTW = block(x_BTW, mask_B11T)
        return x_BTW


class MaskedLanguageModel(nn.Module):
    """Logits over the vocabulary for the chosen tokens only."""

    block_classes: tuple[type[nn.Module], ...] = (Block,)

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        assert config.vocabulary is not None
        self.encoder = Encoder(config)
        self.transform = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.head = LanguageHead(config.width, config.vocabulary)
        self.apply(partial(_initialize, deviation=config.initial_deviation))
        self.head.weight = self.encoder.token_embedding.weight

    def forward(
        self,
        tokens_BT: Tensor,
        length_B: Tensor | None = None,
        segment_BT: Tensor | None = None,
        chosen_BK: Tensor | None = None,
        scoring: Scoring | None = None,
    ) -> Any:
        """-> logits (B, K, V) at the places ``chosen_BK``, or (B, T, V) at all; with a scoring its scores."""
        x_BKW = self.encoder(tokens_BT, length_B, segment_BT)
        if chosen_BK is not None:
            x_BKW = x_BKW.take_along_dim(chosen_BK[:, :, None], dim=1)
        return self.head(self.norm(F.gelu(self.transform(x_BKW))), scoring)


class SequenceClassifier(nn.Module):
    """Outputs for a whole sequence, from the state of its first token."""

    block_classes: tuple[type[nn.Module], ...] = (Block,)

    def __init__(self, config: BertConfig, outputs: int) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.pooler = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, outputs)
        self.apply(partial(_initialize, deviation=config.initial_deviation))

    def forward(
        self, tokens_BT: Tensor, length_B: Tensor | None = None, segment_BT: Tensor | None = None
    ) -> Tensor:
        """-> outputs (B, O)."""
        first_BW = self.encoder(tokens_BT, length_B, segment_BT)[:, 0]
        y_BO: Tensor = self.head(self.dropout(torch.tanh(self.pooler(first_BW))))
        return y_BO


class TokenClassifier(nn.Module):
    """Outputs for each token."""

    block_classes: tuple[type[nn.Module], ...] = (Block,)

    def __init__(self, config: BertConfig, outputs: int) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.width, outputs)
        self.apply(partial(_initialize, deviation=config.initial_deviation))

    def forward(
        self, tokens_BT: Tensor, length_B: Tensor | None = None, segment_BT: Tensor | None = None
    ) -> Tensor:
        """-> outputs (B, T, O)."""
        y_BTO: Tensor = self.head(self.dropout(self.encoder(tokens_BT, length_B, segment_BT)))
        return y_BTO


class FramesTagger(nn.Module):
    """Outputs for each frame of a signal, by the blocks of BERT over frames instead of tokens."""

    block_classes: tuple[type[nn.Module], ...] = (Block,)

    def __init__(self, config: BertConfig, outputs: int) -> None:
        super().__init__()
        assert config.channels is not None
        self.frame_projection = nn.Linear(config.channels, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.norm = nn.LayerNorm(config.width, eps=config.norm_epsilon)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = nn.Linear(config.width, outputs)
        self.apply(partial(_initialize, deviation=config.initial_deviation))

    def forward(self, signal_BCT: Tensor, length_B: Tensor | None = None) -> Tensor:
        """Frames (B, C, T), how many of each signal are its own -> outputs (B, T, O)."""
        position_T = torch.arange(signal_BCT.shape[2], device=signal_BCT.device)
        x_BTW = self.frame_projection(signal_BCT.transpose(1, 2)) + self.position_embedding(position_T)
        x_BTW = self.dropout(self.norm(x_BTW))
        mask_B11T = None if length_B is None else (position_T < length_B[:, None])[:, None, None]
        for block in self.layers:
            x_BTW = block(x_BTW, mask_B11T)
        y_BTO: Tensor = self.head(self.dropout(x_BTW))
        return y_BTO


def _initialize(module: nn.Module, deviation: float) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=deviation)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def build(config: BertConfig, objective: ObjectiveConfig) -> Modules:
    """The encoder with the objective's last part."""
    if objective.kind == "masked_lm":
        return {"model": MaskedLanguageModel(config)}
    if objective.kind == "ctc":
        return {"model": FramesTagger(config, config.outputs_for(objective))}
    classifier = TokenClassifier if objective.kind == "token_classification" else SequenceClassifier
    return {"model": classifier(config, config.outputs_for(objective))}
