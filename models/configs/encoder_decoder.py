"""Config of the family with an encoder and a decoder."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from orchestrator.models.configs.base import (
    Count,
    FamilyConfig,
    Layers,
    ObjectiveConfig,
    Positive,
    Probability,
    heads_fit,
)
from orchestrator.models.tensors import TensorSpec


class TransformerConfig(FamilyConfig):
    """Transformer with an encoder and a decoder (Vaswani et al. 2017, arXiv:1706.03762)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "debug": {"layers": 2, "heads": 2, "width": 32, "context": 64, "dropout": 0.0},
        "base": {"layers": 6, "heads": 8, "width": 512, "context": 512},
        "big": {"layers": 6, "heads": 16, "width": 1024, "context": 512, "dropout": 0.3},
    }
    FROM_DATA: ClassVar[dict[str, str]] = {
        "vocabulary": "vocabulary",
        "target_vocabulary": "target_vocabulary",
    }
    OBJECTIVES: ClassVar[tuple[str, ...]] = ("sequence_to_sequence",)

    family: Literal["transformer"] = "transformer"
    """The architecture family."""
    vocabulary: Count | None = None
    """Different tokens that are read. Default: as many as the data has."""
    target_vocabulary: Count | None = None
    """Different tokens that are written. Default: as the target's own tokenizer, else as ``vocabulary``."""
    context: Count = 128
    """Longest source, in tokens."""
    target_context: Count | None = None
    """Longest target, in tokens. Default: as ``context``."""
    layers: Layers = 3
    """Blocks of the encoder."""
    decoder_layers: Layers | None = None
    """Blocks of the decoder. Default: as ``layers``."""
    heads: Count = 4
    """Attention heads; must divide ``width``."""
    heads_per_key_value: Count = 1
    """Query heads that share one key and value head (Ainslie et al. 2023, arXiv:2305.13245); must divide ``heads``."""
    width: Count = 128
    """Width of the residual stream."""
    positions: Literal["sinusoidal", "learned", "rotary"] = "sinusoidal"
    """Fixed sines and a scaled embedding, as in the paper; a table of positions; or rotated queries and keys of self-attention
    (Su et al. 2021, arXiv:2104.09864)."""
    rotary_base: Positive = 10000.0
    """Longest wavelength of rotary positions, in tokens, over 2 pi."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm, or RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    norm_first: bool = False
    """Normalize what goes into each branch (and what comes out of encoder and decoder), not, as the paper, the sum that comes out
    of it. Deep models need it, or a long warmup (Xiong et al. 2020, arXiv:2002.04745)."""
    norm_epsilon: Positive = 1e-5
    """Added to the variance."""
    feedforward: Literal["relu", "gelu", "gelu_tanh", "swiglu"] = "relu"
    """Two layers with ReLU or GELU (exact or by tanh), or SwiGLU (Shazeer 2020, arXiv:2002.05202)."""
    feedforward_ratio: Positive = 4.0
    """Width of the feed-forward's hidden layer, as a multiple of ``width``."""
    bias: bool = True
    """Biases in linear layers and LayerNorms."""
    tied_embeddings: bool = True
    """Use one table for source, target and output layer; with a ``target_vocabulary`` of its own, one for target and output."""
    dropout: Probability = 0.1
    """Dropout on embeddings, attention and each residual branch."""

    @model_validator(mode="after")
    def _fits(self) -> TransformerConfig:
        heads_fit(
            self.width,
            self.heads,
            heads_per_key_value=self.heads_per_key_value,
            positions=self.positions,
        )
        if self.positions == "sinusoidal" and self.width % 2:
            raise ValueError(f"sinusoidal positions need an even width, not {self.width}")
        return self

    @property
    def max_tokens(self) -> int:
        """The context."""
        return self.context

    @property
    def longest_target(self) -> int:
        """Longest target, in tokens."""
        return self.target_context or self.context

    @property
    def written_tokens(self) -> int | None:
        """Different tokens that are written."""
        return self.target_vocabulary or self.vocabulary

    def needed(self, objective: ObjectiveConfig) -> tuple[str, ...]:
        """A target may have no vocabulary of its own."""
        return ("vocabulary",)

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """The source, how many tokens of it are real, and what the decoder reads."""
        return {
            "tokens": TensorSpec((None,), "int", below=self.vocabulary, longest=self.context),
            "length": TensorSpec((), "int", below=self.context + 1, optional=True),
            "target": TensorSpec((None,), "int", below=self.written_tokens, longest=self.longest_target),
        }

    def export_parts(self, objective: ObjectiveConfig) -> dict[str, dict[str, TensorSpec]]:
        """The encoder, and the decoder of what that has made of the source."""
        tensors = self.input_tensors(objective)
        memory = TensorSpec((None, self.width), "float", longest=self.context)
        return {
            "encoder": {name: tensors[name] for name in ("tokens", "length")},
            "decoder": {"memory": memory, **{name: tensors[name] for name in ("length", "target")}},
        }

    def open_size(self, tensor: str) -> int | None:
        """Of a target."""
        return self.longest_target if tensor == "target" else None
