"""One frozen config for each family and for each objective, and the named sizes.

Imports no torch, so that a laptop validates a job file at once. A field whose default is None is *taken
from the data* (its description says so); planning resolves it, and a plan holds no None for it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from orchestrator.section import Section

Probability = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class FamilyConfig(Section):
    """What every family's section has. A named size fills in what is not written beside it."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {}
    FROM_DATA: ClassVar[dict[str, str]] = {}
    """Field -> name of the data fact (``orchestrator.planning.DataFacts.dims``) that fills it when not given."""

    family: str
    """The architecture family."""
    size: str | None = None
    """A named size of the family; fields written beside it win. Default: the fields' own defaults."""

    @model_validator(mode="before")
    @classmethod
    def _fill_from_size(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(size := given.get("size"), str):
            if size not in cls.SIZES:
                family = cls.model_fields["family"].default
                raise ValueError(f"{family} has no size {size!r}; it has {', '.join(cls.SIZES)}")
            return {**cls.SIZES[size], **given}
        return given


class MlpConfig(FamilyConfig):
    """Feed-forward network for tables."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "debug": {"width": 32, "depth": 2},
        "small": {"width": 128, "depth": 3},
        "base": {"width": 512, "depth": 4, "residual": True, "norm": "layer"},
    }
    FROM_DATA: ClassVar[dict[str, str]] = {"in_features": "features", "outputs": "outputs"}

    family: Literal["mlp"] = "mlp"
    """The architecture family."""
    in_features: Count | None = None
    """Numbers in a sample's ``features``. Default: as many as the data has."""
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


class CnnConfig(FamilyConfig):
    """Residual convolutional network (He et al. 2015, arXiv:1512.03385)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "debug": {"stage_blocks": (1, 1), "width": 16, "stem": "small"},
        "small": {"stage_blocks": (2, 2, 2), "width": 32, "stem": "small"},
        "resnet18": {"stage_blocks": (2, 2, 2, 2), "width": 64, "stem": "imagenet"},
        "resnet34": {"stage_blocks": (3, 4, 6, 3), "width": 64, "stem": "imagenet"},
        "resnet50": {"stage_blocks": (3, 4, 6, 3), "width": 64, "stem": "imagenet", "block": "bottleneck"},
    }
    FROM_DATA: ClassVar[dict[str, str]] = {"in_channels": "channels", "outputs": "outputs"}

    family: Literal["cnn"] = "cnn"
    """The architecture family."""
    in_channels: Count | None = None
    """Channels of an image. Default: as many as the data has."""
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
    dropout: Probability = 0.0
    """Dropout before the classifier."""


ModelConfig = Annotated[MlpConfig | CnnConfig, Field(discriminator="family")]


class ObjectiveConfig(Section):
    """What every objective's section has."""

    kind: str
    """What is minimised."""


class ClassificationConfig(ObjectiveConfig):
    """Cross-entropy over classes; metrics: accuracy."""

    kind: Literal["classification"] = "classification"
    """One class of several."""
    label_smoothing: Probability = 0.0
    """Share of the target spread over all classes (Szegedy et al. 2015, arXiv:1512.00567)."""


class RegressionConfig(ObjectiveConfig):
    """Mean squared error; metrics: rmse, mae."""

    kind: Literal["regression"] = "regression"
    """One number or several."""


ObjectiveSection = Annotated[ClassificationConfig | RegressionConfig, Field(discriminator="kind")]

DEFAULT_OBJECTIVES: dict[str, str] = {"mlp": "classification", "cnn": "classification"}
"""Family -> the objective it has when the job file names none."""
