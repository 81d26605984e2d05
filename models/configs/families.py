"""Configs of the families for tables, images and signals, and the sizes that people know by name."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from orchestrator.models.configs.base import (
    Count,
    FamilyConfig,
    Layers,
    ObjectiveConfig,
    Probability,
    label_fields,
    label_outputs,
)
from orchestrator.models.tensors import TensorSpec


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
    in_features: Annotated[int, Field(ge=0)] | None = None
    """Numbers in a sample's ``features``. Default: as many as the data has; 0 where it has categories alone."""
    cardinalities: tuple[Count, ...] | None = None
    """Number of values of each column of a sample's ``categories``. Default: as the data has; none where it has none."""
    outputs: Count | None = None
    """Classes, or numbers to predict. Default: as many as the data has."""
    width: Count = 128
    """Units of each hidden layer."""
    depth: Layers = 3
    """Hidden layers."""
    activation: Literal["relu", "gelu", "silu", "tanh"] = "relu"
    """Non-linearity."""
    dropout: Probability = 0.0
    """Dropout after each hidden layer."""
    norm: Literal["none", "layer"] = "none"
    """Normalization in each hidden layer."""
    residual: bool = False
    """Add each hidden layer's input to its output."""
    embedding_width: Count = 16
    """Numbers that stand for one categorical value."""

    def needed(self, objective: ObjectiveConfig) -> tuple[str, ...]:
        """A table may have no categorical columns, or nothing else."""
        columns = ("cardinalities",) if self.in_features == 0 else ()
        return ("in_features", *columns, *label_fields(objective))

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """The numbers and the categorical columns, of each where there are any."""
        tensors = {}
        if self.in_features != 0:
            tensors["features"] = TensorSpec((self.in_features,), "float")
        if self.cardinalities:
            tensors["categories"] = TensorSpec(
                (len(self.cardinalities),), "int", below=max(self.cardinalities)
            )
        return tensors

    def outputs_for(self, objective: ObjectiveConfig) -> int:
        """Classes, or numbers to predict."""
        return label_outputs(objective, self.outputs)


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
    stage_blocks: tuple[Layers, ...] = (2, 2, 2)
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

    @property
    def normalizes_over_shares(self) -> bool:
        """With batch normalization."""
        return self.norm == "batch"

    def needed(self, objective: ObjectiveConfig) -> tuple[str, ...]:
        """The network takes any size of image."""
        return ("in_channels", *label_fields(objective))

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """An image or a signal."""
        if self.dimensions == 2:
            return {"image": TensorSpec((self.in_channels, None, None), "float")}
        return {"signal": TensorSpec((self.in_channels, None), "float")}

    def outputs_for(self, objective: ObjectiveConfig) -> int:
        """Classes, or numbers to predict."""
        return label_outputs(objective, self.outputs)

    def open_size(self, tensor: str) -> int | None:
        """Of an image's sides or a signal's steps."""
        return {"image": self.image_size, "signal": self.signal_length}.get(tensor)


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

    def export_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """What the generator makes samples from."""
        return {"noise": TensorSpec((self.noise,), "float")}

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
    depth: Layers = 2
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
