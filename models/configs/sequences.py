"""Configs of the families for text and series, and the sizes that people know by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from orchestrator.models.configs.base import (
    Count,
    FamilyConfig,
    Layers,
    ObjectiveConfig,
    Positive,
    Probability,
    WeightsConfig,
    heads_fit,
    label_fields,
    label_outputs,
)
from orchestrator.models.tensors import TensorSpec


class RecurrentConfig(FamilyConfig):
    """Recurrent network (Elman 1990; Hochreiter and Schmidhuber 1997; Cho et al. 2014, arXiv:1406.1078)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "debug": {"width": 32, "layers": 1, "embedding_width": 32},
        "small": {"width": 128, "layers": 2, "embedding_width": 128},
        "medium": {"width": 650, "layers": 2, "embedding_width": 650, "dropout": 0.5},
        "large": {"width": 1500, "layers": 2, "embedding_width": 1500, "dropout": 0.65},
    }
    FROM_DATA: ClassVar[dict[str, str]] = {
        "vocabulary": "vocabulary",
        "outputs": "outputs",
        "channels": "channels",
        "signal_length": "signal_length",
        "series": "series",
        "past": "past",
        "horizon": "horizon",
    }
    OBJECTIVES: ClassVar[tuple[str, ...]] = (
        "causal_lm",
        "classification",
        "binary",
        "multilabel",
        "regression",
        "forecasting",
        "ctc",
    )

    inputs: Literal["tokens", "signal"] = "tokens"
    """What one label belongs to (classification, regression; ``ctc`` reads a signal): ``tokens`` (T,) or a ``signal`` (C, L), of which
    ``length`` may say how many steps are its own."""
    vocabulary: Count | None = None
    """Different tokens. Default: as many as the data has."""
    channels: Count | None = None
    """Channels of a signal. Default: as many as the data has."""
    signal_length: Count | None = None
    """Steps of a signal, used to count operations; any length is taken. Default: as the data has."""
    outputs: Count | None = None
    """Classes, or numbers to predict. Default: as many as the data has."""
    series: Count | None = None
    """Series that are forecast together. Default: as many as the data has."""
    past: Count | None = None
    """Steps of a forecast's past window. Default: as the data's windows."""
    horizon: Count | None = None
    """Steps to forecast. Default: as the data's windows."""
    width: Count = 128
    """Units of each layer, in each direction."""
    layers: Layers = 1
    """Layers, one on the other."""
    embedding_width: Count = 128
    """Numbers that stand for one token."""
    projection: Count | None = None
    """Width that an LSTM's output is projected to (Sak et al. 2014, arXiv:1402.1128). Default: no projection."""
    bidirectional: bool = False
    """Read each sequence in both directions; not with a language model, which must not see what comes."""
    dropout: Probability = 0.0
    """Dropout between layers and on the embeddings."""
    tied_embeddings: bool = False
    """Use the embedding as the language model's output layer (Press and Wolf 2016, arXiv:1608.05859)."""
    context: Count = 256
    """Longest sequence of tokens."""
    last_value: bool = True
    """Read and forecast differences from the past's last value (Zeng et al. 2022, arXiv:2205.13504)."""
    period: Count | None = None
    """Steps of a season (24 in hourly series with a daily rhythm): forecast the difference from the past's last season,
    again and again, instead of from its last value. Default: no season."""

    @model_validator(mode="after")
    def _fits(self) -> RecurrentConfig:
        if self.projection is not None and self.family != "lstm":
            raise ValueError("projection is only for family lstm")
        if self.projection is not None and self.projection >= self.width:
            raise ValueError(f"projection {self.projection} must be less than width {self.width}")
        if self.tied_embeddings and self.embedding_width != (self.projection or self.width):
            raise ValueError(
                f"tied_embeddings needs embedding_width ({self.embedding_width}) equal to the layers' output width"
                f" ({self.projection or self.width})"
            )
        if self.period is not None and self.past is not None and self.period > self.past:
            raise ValueError(f"period {self.period} must not be more than the {self.past} steps of past")
        return self

    @property
    def max_tokens(self) -> int:
        """The context."""
        return self.context

    @property
    def scores_in_chunks(self) -> bool:
        """It can."""
        return True

    def needed(self, objective: ObjectiveConfig) -> tuple[str, ...]:
        """What the objective's inputs and outputs have."""
        if objective.kind == "causal_lm":
            return ("vocabulary",)
        if objective.kind == "forecasting":
            return ("series", "past", "horizon")
        return ("channels" if self._hears(objective) else "vocabulary", *label_fields(objective))

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """Tokens, a signal, or the past of some series."""
        if objective.kind == "forecasting":
            return {"past": TensorSpec((self.past, self.series), "float")}
        if objective.kind == "causal_lm":
            return {"tokens": TensorSpec((None,), "int", below=self.vocabulary, longest=self.context + 1)}
        if self._hears(objective):
            return {
                "signal": TensorSpec((self.channels, None), "float"),
                "length": TensorSpec((), "int", optional=True),
            }
        return {
            "tokens": TensorSpec((None,), "int", below=self.vocabulary, longest=self.context),
            "length": TensorSpec((), "int", below=self.context + 1, optional=True),
        }

    def _hears(self, objective: ObjectiveConfig) -> bool:
        """Whether it reads a signal."""
        return self.inputs == "signal" or objective.kind == "ctc"

    def outputs_for(self, objective: ObjectiveConfig) -> int:
        """Classes, or numbers to predict."""
        return label_outputs(objective, self.outputs)

    def open_size(self, tensor: str) -> int | None:
        """Of a signal's steps."""
        return self.signal_length if tensor == "signal" else None


class RnnConfig(RecurrentConfig):
    """Elman's recurrent network (Elman 1990, Cognitive Science 14)."""

    family: Literal["rnn"] = "rnn"
    """The architecture family."""
    activation: Literal["tanh", "relu"] = "tanh"
    """Non-linearity."""


class LstmConfig(RecurrentConfig):
    """Long short-term memory (Hochreiter and Schmidhuber 1997, Neural Computation 9)."""

    family: Literal["lstm"] = "lstm"
    """The architecture family."""


class GruConfig(RecurrentConfig):
    """Gated recurrent units (Cho et al. 2014, arXiv:1406.1078)."""

    family: Literal["gru"] = "gru"
    """The architecture family."""


_GPT2 = {"feedforward": "gelu_tanh"}


class GptConfig(WeightsConfig):
    """Pre-norm transformer decoder (Radford et al. 2019; Touvron et al. 2023, arXiv:2302.13971)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "debug": {"layers": 2, "heads": 2, "width": 32, "context": 64},
        "nano": {
            "layers": 4,
            "heads": 4,
            "width": 128,
            "context": 64,
            "bias": False,
            "initial_deviation": 0.05,
        },
        "124m": {"layers": 12, "heads": 12, "width": 768, "context": 1024, **_GPT2},
        "350m": {"layers": 24, "heads": 16, "width": 1024, "context": 1024, **_GPT2},
        "774m": {"layers": 36, "heads": 20, "width": 1280, "context": 1024, **_GPT2},
        "1.5b": {"layers": 48, "heads": 25, "width": 1600, "context": 1024, **_GPT2},
        "7b": {
            "layers": 32,
            "heads": 32,
            "width": 4096,
            "context": 4096,
            "positions": "rotary",
            "norm": "rms",
            "feedforward": "swiglu",
            "feedforward_ratio": 2.6875,
            "bias": False,
            "tied_embeddings": False,
        },
    }
    FROM_DATA: ClassVar[dict[str, str]] = {"vocabulary": "vocabulary"}
    OBJECTIVES: ClassVar[tuple[str, ...]] = ("causal_lm",)

    family: Literal["gpt"] = "gpt"
    """The architecture family."""
    vocabulary: Count | None = None
    """Different tokens. Default: as many as the data has."""
    context: Count = 256
    """Longest sequence, in tokens."""
    layers: Layers = 6
    """Blocks of attention and feed-forward."""
    heads: Count = 6
    """Attention heads; must divide ``width``."""
    heads_per_key_value: Count = 1
    """Query heads that share one key and value head (Ainslie et al. 2023, arXiv:2305.13245); must divide ``heads``."""
    width: Count = 384
    """Width of the residual stream."""
    positions: Literal["learned", "rotary"] = "learned"
    """A table of positions, or rotated queries and keys (Su et al. 2021, arXiv:2104.09864)."""
    rotary_base: Positive = 10000.0
    """Longest wavelength of rotary positions, in tokens, over 2 pi."""
    norm: Literal["layer", "rms"] = "layer"
    """LayerNorm, or RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    norm_epsilon: Positive = 1e-5
    """Added to the variance."""
    feedforward: Literal["gelu", "gelu_tanh", "swiglu"] = "gelu"
    """Two layers with GELU (exact or by tanh), or SwiGLU (Shazeer 2020, arXiv:2002.05202)."""
    feedforward_ratio: Positive = 4.0
    """Width of the feed-forward's hidden layer, as a multiple of ``width``."""
    bias: bool = True
    """Biases in linear layers and LayerNorms."""
    tied_embeddings: bool = True
    """Use the embedding as the output layer."""
    dropout: Probability = 0.0
    """Dropout on embeddings, attention and each residual branch."""
    initial_deviation: Positive = 0.02
    """Standard deviation of the first weights. GPT-2's 0.02 suits widths from about 768 on; narrower models learn
    faster from more (0.02 times the square root of 768 / ``width``)."""

    @model_validator(mode="after")
    def _fits(self) -> GptConfig:
        if self.from_ is not None:
            return self  # what is not written is not known yet
        heads_fit(
            self.width,
            self.heads,
            heads_per_key_value=self.heads_per_key_value,
            positions=self.positions,
        )
        return self

    @property
    def max_tokens(self) -> int:
        """The context."""
        return self.context

    @property
    def scores_in_chunks(self) -> bool:
        """It can."""
        return True

    @property
    def reads_borders(self) -> bool:
        """Its attention can do without a mask."""
        return True

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """One token more than the model reads: each is predicted from those before it."""
        return {
            "tokens": TensorSpec((None,), "int", below=self.vocabulary, longest=self.context + 1),
            "document": TensorSpec((None,), "int", optional=True),
        }

    def export_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """Tokens, and their documents where the model was trained to keep these apart."""
        tensors = self.input_tensors(objective)
        document = tensors.pop("document")
        return (
            {**tensors, "document": replace(document, optional=False)}
            if objective.keeps_documents
            else tensors
        )


class BertConfig(WeightsConfig):
    """Bidirectional transformer encoder (Devlin et al. 2018, arXiv:1810.04805)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "debug": {"layers": 2, "heads": 2, "width": 32, "context": 64, "dropout": 0.0},
        "small": {"layers": 4, "heads": 4, "width": 256, "context": 128},
        "base": {"layers": 12, "heads": 12, "width": 768, "context": 512},
        "large": {"layers": 24, "heads": 16, "width": 1024, "context": 512},
    }
    FROM_DATA: ClassVar[dict[str, str]] = {
        "vocabulary": "vocabulary",
        "outputs": "outputs",
        "channels": "channels",
        "signal_length": "signal_length",
    }
    OBJECTIVES: ClassVar[tuple[str, ...]] = (
        "masked_lm",
        "classification",
        "binary",
        "multilabel",
        "regression",
        "token_classification",
        "ctc",
    )

    family: Literal["bert"] = "bert"
    """The architecture family."""
    vocabulary: Count | None = None
    """Different tokens. Default: as many as the data has."""
    outputs: Count | None = None
    """Classes, or numbers to predict. Default: as many as the data has."""
    channels: Count | None = None
    """Numbers of each frame of a signal (``ctc``). Default: as many as the data has."""
    signal_length: Count | None = None
    """Frames of a signal (``ctc``), used to count operations. Default: as the data has."""
    context: Count = 128
    """Longest sequence, in tokens or frames."""
    layers: Layers = 4
    """Blocks of attention and feed-forward."""
    heads: Count = 4
    """Attention heads; must divide ``width``."""
    width: Count = 256
    """Width of the residual stream."""
    feedforward_ratio: Positive = 4.0
    """Width of the feed-forward's hidden layer, as a multiple of ``width``."""
    segments: Count = 2
    """Different segments (sentence A and B)."""
    norm_epsilon: Positive = 1e-12
    """Added to the variance."""
    dropout: Probability = 0.1
    """Dropout on embeddings, attention and each residual branch."""
    initial_deviation: Positive = 0.02
    """Standard deviation of the first weights."""

    @model_validator(mode="after")
    def _fits(self) -> BertConfig:
        if self.from_ is not None:
            return self  # what is not written is not known yet
        heads_fit(self.width, self.heads)
        if self.signal_length is not None and self.signal_length > self.context:
            raise ValueError(
                f"context {self.context} is less than the {self.signal_length} frames of a signal; make it as many, or frames"
                " fewer (the hop of mel, the length of pad)"
            )
        return self

    @property
    def max_tokens(self) -> int:
        """The context."""
        return self.context

    @property
    def scores_in_chunks(self) -> bool:
        """It can."""
        return True

    def needed(self, objective: ObjectiveConfig) -> tuple[str, ...]:
        """A language model has no labels, and a signal no tokens."""
        if objective.kind == "ctc":
            return ("channels", "outputs")
        return ("vocabulary",) if objective.kind == "masked_lm" else ("vocabulary", *label_fields(objective))

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """Tokens, how many of them are real, and the segment of each; or the frames of a signal, and how many are its own."""
        length = TensorSpec((), "int", below=self.context + 1, optional=True)
        if objective.kind == "ctc":
            return {"signal": TensorSpec((self.channels, None), "float"), "length": length}
        return {
            "tokens": TensorSpec((None,), "int", below=self.vocabulary, longest=self.context),
            "length": length,
            "segment": TensorSpec((None,), "int", below=self.segments, optional=True),
        }

    def outputs_for(self, objective: ObjectiveConfig) -> int:
        """Classes, or numbers to predict."""
        return label_outputs(objective, self.outputs)

    def open_size(self, tensor: str) -> int | None:
        """Of a signal's frames."""
        return self.signal_length if tensor == "signal" else None
