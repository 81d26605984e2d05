"""One frozen config for each family and for each objective, and the named sizes.

Imports no torch, so that a laptop validates a job file at once. A field whose description says "as the data
has" is *taken from the data* where it is not written; ``FamilyConfig.needed`` says which of these fields an
objective uses.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, TypeAdapter

from orchestrator.models.configs.base import Count, FamilyConfig, ObjectiveConfig, Probability
from orchestrator.models.configs.custom import (
    CustomConfig,
    CustomObjectiveConfig,
    HuggingFaceConfig,
    InputTensor,
)
from orchestrator.models.configs.encoder_decoder import TransformerConfig
from orchestrator.models.configs.families import (
    AutoencoderConfig,
    CnnConfig,
    GanConfig,
    MlpConfig,
)
from orchestrator.models.configs.foreign import (
    check_same_function,
    filled_in,
    refuse_differences,
    with_architecture,
)
from orchestrator.models.configs.lora import LoraSpec
from orchestrator.models.configs.objectives import (
    AdversarialConfig,
    BinaryConfig,
    CausalLmConfig,
    ClassificationConfig,
    CtcConfig,
    ForecastingConfig,
    MaskedLmConfig,
    MultilabelConfig,
    ReconstructionConfig,
    RegressionConfig,
    SequenceToSequenceConfig,
    TokenClassificationConfig,
)
from orchestrator.models.configs.sequences import (
    BertConfig,
    GptConfig,
    GruConfig,
    LstmConfig,
    RecurrentConfig,
    RnnConfig,
)

ModelConfig = Annotated[
    MlpConfig
    | CnnConfig
    | RnnConfig
    | LstmConfig
    | GruConfig
    | GptConfig
    | BertConfig
    | TransformerConfig
    | GanConfig
    | AutoencoderConfig
    | CustomConfig
    | HuggingFaceConfig,
    Field(discriminator="family"),
]

ObjectiveSection = Annotated[
    ClassificationConfig
    | RegressionConfig
    | BinaryConfig
    | MultilabelConfig
    | CausalLmConfig
    | MaskedLmConfig
    | SequenceToSequenceConfig
    | TokenClassificationConfig
    | CtcConfig
    | ForecastingConfig
    | ReconstructionConfig
    | AdversarialConfig
    | CustomObjectiveConfig,
    Field(discriminator="kind"),
]


def default_objective(model: FamilyConfig) -> ObjectiveConfig:
    """The objective that a family has when the job file names none."""
    adapter: TypeAdapter[ObjectiveConfig] = TypeAdapter(ObjectiveSection)
    return adapter.validate_python({"kind": model.own_objective})


__all__ = [
    "AdversarialConfig",
    "AutoencoderConfig",
    "BertConfig",
    "BinaryConfig",
    "CausalLmConfig",
    "ClassificationConfig",
    "CnnConfig",
    "Count",
    "CtcConfig",
    "CustomConfig",
    "CustomObjectiveConfig",
    "FamilyConfig",
    "ForecastingConfig",
    "GanConfig",
    "GptConfig",
    "GruConfig",
    "HuggingFaceConfig",
    "InputTensor",
    "LoraSpec",
    "LstmConfig",
    "MaskedLmConfig",
    "MlpConfig",
    "ModelConfig",
    "MultilabelConfig",
    "ObjectiveConfig",
    "ObjectiveSection",
    "Probability",
    "ReconstructionConfig",
    "RecurrentConfig",
    "RegressionConfig",
    "RnnConfig",
    "SequenceToSequenceConfig",
    "TokenClassificationConfig",
    "TransformerConfig",
    "check_same_function",
    "default_objective",
    "filled_in",
    "refuse_differences",
    "with_architecture",
]
