"""One frozen config for each family, and the sizes that people know by name."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from orchestrator.models.configs.base import Count, FamilyConfig, ObjectiveConfig, Positive, Probability
from orchestrator.models.tensors import TensorSpec


def _labels(objective: ObjectiveConfig) -> tuple[str, ...]:
    """One yes-or-no label takes one output, whatever the data counts."""
    return () if objective.kind == "binary" else ("outputs",)


class MlpConfig(FamilyConfig):
    """Feed-forward network for tables."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "debug": {"width": 32, "depth": 2},
        "small": {"width": 128, "depth": 3},
        "base": {"width": 512, "depth": 4, "residual": True, "norm": "layer"},
    }
    FROM_DATA: ClassVar[dict[str, str]] = {
        "in_features": "features",
        "outputs": "outputs",
        "cardinalities": "cardinalities",
    }
    OBJECTIVES: ClassVar[tuple[str, ...]] = ("classification", "regression", "binary", "multilabel")

    family: Literal["mlp"] = "mlp"
    """The architecture family."""
    in_features: Count | None = None
    """Numbers in a sample's ``features``. Default: as many as the data has."""
    cardinalities: tuple[Count, ...] | None = None
    """Number of values of each column of a sample's ``categories``. Default: as the data has; none where it has none."""
    outputs: Count | None = None
    """Classes, or numbers to predict. Default: as many as the data has."""
    width: Count = 128
    """Units of each hidden layer."""
    depth: Count = 3
    """Hidden layers."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Non-linearity."""
    dropout: Probability = 0.0
    """Dropout after each hidden layer."""
    norm: Literal["none", "layer"] = "none"
    """Normalisation in each hidden layer."""
    residual: bool = False
    """Add each hidden layer's input to its output."""
    embedding_width: Count = 16
    """Numbers that stand for one categorical value."""

    def needed(self, objective: ObjectiveConfig) -> tuple[str, ...]:
        """A table may have no categorical columns."""
        return ("in_features", *_labels(objective))

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """The numbers, and the categorical columns where there are any."""
        tensors = {"features": TensorSpec((self.in_features,), "float")}
        if self.cardinalities:
            tensors["categories"] = TensorSpec(
                (len(self.cardinalities),), "int", below=max(self.cardinalities)
            )
        return tensors


class CnnConfig(FamilyConfig):
    """Residual convolutional network (He et al. 2015, arXiv:1512.03385)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "debug": {"stage_blocks": (1, 1), "width": 16, "stem": "small"},
        "small": {"stage_blocks": (2, 2, 2), "width": 32, "stem": "small"},
        "resnet18": {"stage_blocks": (2, 2, 2, 2), "width": 64, "stem": "imagenet"},
        "resnet34": {"stage_blocks": (3, 4, 6, 3), "width": 64, "stem": "imagenet"},
        "resnet50": {"stage_blocks": (3, 4, 6, 3), "width": 64, "stem": "imagenet", "block": "bottleneck"},
    }
    FROM_DATA: ClassVar[dict[str, str]] = {
        "in_channels": "channels",
        "outputs": "outputs",
        "image_size": "image_size",
        "signal_length": "signal_length",
    }
    OBJECTIVES: ClassVar[tuple[str, ...]] = ("classification", "regression", "binary", "multilabel")

    family: Literal["cnn"] = "cnn"
    """The architecture family."""
    dimensions: Literal[1, 2] = 2
    """2: images, tensor ``image`` (C, H, W); 1: signals, tensor ``signal`` (C, L)."""
    in_channels: Count | None = None
    """Channels of an image or signal. Default: as many as the data has."""
    image_size: Count | None = None
    """Height and width, used to count operations; any size is taken. Default: as the data has."""
    signal_length: Count | None = None
    """Steps of a signal, used to count operations; any length is taken. Default: as the data has."""
    outputs: Count | None = None
    """Classes, or numbers to predict. Default: as many as the data has."""
    width: Count = 32
    """Channels of the first stage; each further stage has twice as many."""
    stage_blocks: tuple[Count, ...] = (2, 2, 2)
    """Residual blocks of each stage."""
    block: Literal["basic", "bottleneck"] = "basic"
    """Two 3x3 convolutions, or 1x1-3x3-1x1 with four times the channels out."""
    stem: Literal["small", "imagenet"] = "small"
    """``small``: one 3x3 convolution (images up to 64 px); ``imagenet``: 7x7 stride 2 and max-pool."""
    norm: Literal["group", "batch"] = "group"
    """``group`` gives the same result on any number of workers; ``batch`` depends on each worker's share."""
    squeeze_excitation: bool = False
    """Weigh each block's channels by what the whole image holds (Hu et al. 2017, arXiv:1709.01507)."""
    dropout: Probability = 0.0
    """Dropout before the classifier."""

    def needed(self, objective: ObjectiveConfig) -> tuple[str, ...]:
        """The network takes any size of image."""
        return ("in_channels", *_labels(objective))

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """An image or a signal."""
        if self.dimensions == 2:
            return {"image": TensorSpec((self.in_channels, None, None), "float")}
        return {"signal": TensorSpec((self.in_channels, None), "float")}


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
    )

    inputs: Literal["tokens", "signal"] = "tokens"
    """What one label belongs to (classification, regression): ``tokens`` (T,) or a ``signal`` (C, L)."""
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
    layers: Count = 1
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
    """Forecast the difference from the past's last value (Zeng et al. 2022, arXiv:2205.13504)."""

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
        return self

    def needed(self, objective: ObjectiveConfig) -> tuple[str, ...]:
        """What the objective's inputs and outputs have."""
        if objective.kind == "causal_lm":
            return ("vocabulary",)
        if objective.kind == "forecasting":
            return ("series", "past", "horizon")
        return ("vocabulary" if self.inputs == "tokens" else "channels", *_labels(objective))

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """Tokens, a signal, or the past of some series."""
        if objective.kind == "forecasting":
            return {"past": TensorSpec((self.past, self.series), "float")}
        if objective.kind == "causal_lm":
            return {"tokens": TensorSpec((None,), "int", below=self.vocabulary, longest=self.context + 1)}
        if self.inputs == "signal":
            return {"signal": TensorSpec((self.channels, None), "float")}
        return {
            "tokens": TensorSpec((None,), "int", below=self.vocabulary, longest=self.context),
            "length": TensorSpec((), "int", below=self.context + 1, optional=True),
        }


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


class GptConfig(FamilyConfig):
    """Pre-norm transformer decoder (Radford et al. 2019; Touvron et al. 2023, arXiv:2302.13971)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "debug": {"layers": 2, "heads": 2, "width": 32, "context": 64},
        "nano": {"layers": 4, "heads": 4, "width": 128, "context": 64, "bias": False},
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
    layers: Count = 6
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

    @model_validator(mode="after")
    def _fits(self) -> GptConfig:
        _heads_fit(self.width, self.heads)
        if self.heads % self.heads_per_key_value:
            raise ValueError(
                f"heads_per_key_value {self.heads_per_key_value} does not divide heads {self.heads}"
            )
        if self.positions == "rotary" and (self.width // self.heads) % 2:
            raise ValueError(f"rotary positions need an even width per head, not {self.width // self.heads}")
        return self

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """One token more than the model reads: each is predicted from those before it."""
        return {
            "tokens": TensorSpec((None,), "int", below=self.vocabulary, longest=self.context + 1),
            "document": TensorSpec((None,), "int", optional=True),
        }


class BertConfig(FamilyConfig):
    """Bidirectional transformer encoder (Devlin et al. 2018, arXiv:1810.04805)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "debug": {"layers": 2, "heads": 2, "width": 32, "context": 64, "dropout": 0.0},
        "small": {"layers": 4, "heads": 4, "width": 256, "context": 128},
        "base": {"layers": 12, "heads": 12, "width": 768, "context": 512},
        "large": {"layers": 24, "heads": 16, "width": 1024, "context": 512},
    }
    FROM_DATA: ClassVar[dict[str, str]] = {"vocabulary": "vocabulary", "outputs": "outputs"}
    OBJECTIVES: ClassVar[tuple[str, ...]] = (
        "masked_lm",
        "classification",
        "binary",
        "multilabel",
        "regression",
        "token_classification",
    )

    family: Literal["bert"] = "bert"
    """The architecture family."""
    vocabulary: Count | None = None
    """Different tokens. Default: as many as the data has."""
    outputs: Count | None = None
    """Classes, or numbers to predict. Default: as many as the data has."""
    context: Count = 128
    """Longest sequence, in tokens."""
    layers: Count = 4
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

    @model_validator(mode="after")
    def _fits(self) -> BertConfig:
        _heads_fit(self.width, self.heads)
        return self

    def needed(self, objective: ObjectiveConfig) -> tuple[str, ...]:
        """A language model has no labels."""
        return ("vocabulary",) if objective.kind == "masked_lm" else ("vocabulary", *_labels(objective))

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """Tokens, how many of them are real, and the segment of each."""
        return {
            "tokens": TensorSpec((None,), "int", below=self.vocabulary, longest=self.context),
            "length": TensorSpec((), "int", below=self.context + 1, optional=True),
            "segment": TensorSpec((None,), "int", below=self.segments, optional=True),
        }


def _heads_fit(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"heads {heads} does not divide width {width}")


class GanConfig(FamilyConfig):
    """Generator and discriminator (Goodfellow et al. 2014, arXiv:1406.2661; Radford et al. 2015, arXiv:1511.06434)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "debug": {"width": 16, "noise": 16},
        "small": {"width": 32, "noise": 64},
        "dcgan": {"width": 64, "noise": 100},
    }
    FROM_DATA: ClassVar[dict[str, str]] = {"channels": "channels", "image_size": "image_size"}
    OBJECTIVES: ClassVar[tuple[str, ...]] = ("adversarial",)

    family: Literal["gan"] = "gan"
    """The architecture family."""
    layers: Literal["convolution", "mlp"] = "convolution"
    """DCGAN's convolutions, or fully connected layers."""
    channels: Count | None = None
    """Channels of an image. Default: as many as the data has."""
    image_size: Count | None = None
    """Height and width of an image; with ``convolution`` an even number from 8 up. Default: as the data has."""
    noise: Count = 64
    """Numbers that an image is made from."""
    width: Count = 32
    """Channels of the layer nearest to the image, doubled at each halving of the size (mlp: units, times 8)."""
    spectral_norm: bool = False
    """Hold each discriminator layer's largest singular value at 1 (Miyato et al. 2018, arXiv:1802.05957)."""
    bounded: bool = True
    """End the generator with tanh, for images scaled to [-1, 1]."""

    @model_validator(mode="after")
    def _halves(self) -> GanConfig:
        if self.layers == "convolution":
            _image_halves(self.image_size)
        return self

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """Real images."""
        return {"image": TensorSpec((self.channels, self.image_size, self.image_size), "float")}


class AutoencoderConfig(FamilyConfig):
    """Encoder to a few numbers and decoder back (Hinton and Salakhutdinov 2006; Kingma and Welling 2013)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "debug": {"width": 16, "depth": 1, "latent": 8},
        "small": {"width": 32, "depth": 2, "latent": 32},
        "base": {"width": 64, "depth": 3, "latent": 128},
    }
    FROM_DATA: ClassVar[dict[str, str]] = {
        "in_features": "features",
        "channels": "channels",
        "image_size": "image_size",
    }
    OBJECTIVES: ClassVar[tuple[str, ...]] = ("reconstruction",)

    family: Literal["autoencoder"] = "autoencoder"
    """The architecture family."""
    layers: Literal["mlp", "convolution"] = "mlp"
    """``mlp`` for the tensor ``features``, ``convolution`` for ``image``."""
    in_features: Count | None = None
    """Numbers in a sample's ``features``. Default: as many as the data has."""
    channels: Count | None = None
    """Channels of an image. Default: as many as the data has."""
    image_size: Count | None = None
    """Height and width of an image, an even number from 8 up. Default: as the data has."""
    latent: Count = 32
    """Numbers that a sample is squeezed into."""
    width: Count = 32
    """Channels of the layer nearest to the image, doubled at each halving (mlp: units, times 8)."""
    depth: Count = 2
    """Hidden layers of the encoder and of the decoder (mlp)."""
    variational: bool = False
    """Encode to a distribution (Kingma and Welling 2013, arXiv:1312.6114; the objective's ``beta`` weighs it)."""

    @model_validator(mode="after")
    def _halves(self) -> AutoencoderConfig:
        if self.layers == "convolution":
            _image_halves(self.image_size)
        return self

    def needed(self, objective: ObjectiveConfig) -> tuple[str, ...]:
        """Numbers or images."""
        return ("in_features",) if self.layers == "mlp" else ("channels", "image_size")

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """Numbers or images."""
        if self.layers == "mlp":
            return {"features": TensorSpec((self.in_features,), "float")}
        return {"image": TensorSpec((self.channels, self.image_size, self.image_size), "float")}


def _image_halves(image_size: int | None) -> None:
    if image_size is not None and (image_size < 8 or image_size % 2):
        raise ValueError(
            f"image_size {image_size} can't be halved down to 4 or more; resize the images to an even size from 8 up,"
            " or use layers: mlp"
        )
