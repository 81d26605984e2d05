"""Configs of a model and an objective of a person's own, made by a function of theirs.

What only their code and the data say (the tensors that ``forward`` takes, the phases of an objective) is filled in when
the job is planned, so that a worker asks nobody.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from orchestrator.models.configs.base import Count, FamilyConfig, ObjectiveConfig, label_fields, label_outputs
from orchestrator.models.tensors import TensorSpec
from orchestrator.section import PathText, Section, Written

Factory = Annotated[
    str,
    Written(r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*$", "module:function, such as my_models:build"),
]
_VARIABLE = {"tokens", "document", "segment", "word", "target"}
"""Tensors of which samples may differ in length; as long as the tokens."""


class InputTensor(Section):
    """One named tensor of a sample."""

    shape: tuple[Count | None, ...] | None = None
    """Its shape, without the sample dimension; null for a size that varies. Default: as the data has."""
    kind: Literal["float", "int"] | None = None
    """Default: as the data has."""
    below: Count | None = None
    """Of whole numbers: each is at least 0 and below this. Default: not checked."""
    optional: bool = False
    """Whether the data may lack it."""

    def spec(self) -> TensorSpec:
        """The same for a batch's check."""
        return TensorSpec(self.shape or (), self.kind or "float", below=self.below, optional=self.optional)


class CustomConfig(FamilyConfig):
    """A model of your own: any ``nn.Module``, made by a function of yours."""

    FROM_DATA: ClassVar[dict[str, str]] = {
        "outputs": "outputs",
        "vocabulary": "vocabulary",
        "context": "context",
        "target_vocabulary": "target_vocabulary",
        "target_context": "target_context",
        "series": "series",
        "horizon": "horizon",
    }
    OBJECTIVES: ClassVar[tuple[str, ...]] = (
        "classification",
        "regression",
        "binary",
        "multilabel",
        "token_classification",
        "causal_lm",
        "sequence_to_sequence",
        "forecasting",
        "custom",
    )

    family: Literal["custom"] = "custom"
    """The architecture family."""
    factory: Factory
    """``module:function`` that returns an ``nn.Module``, or a dict of several by name; imported from
    ``environment.working_dir``, else from the job file's folder."""
    config: dict[str, Any] = {}
    """Arguments of the function, by name."""
    blocks: tuple[str, ...] | None = None
    """Names of the classes whose modules are sharded and recomputed one at a time. Default: those that the module's
    ``block_classes`` names, else the classes that repeat; an empty list: the model is one block."""
    outputs: Count | None = None
    """Classes, or numbers to predict, that come out. Default: as many as the data has."""
    vocabulary: Count | None = None
    """Number of different tokens. Default: as the data's tokenizer."""
    context: Count | None = None
    """Longest sequence of tokens. Default: as the data has."""
    target_vocabulary: Count | None = None
    """Number of different tokens that are written. Default: as the target's own tokenizer, else as ``vocabulary``."""
    target_context: Count | None = None
    """Longest sequence of tokens that is written. Default: as the data has."""
    series: Count | None = None
    """Series that are forecast together. Default: as many as the data has."""
    horizon: Count | None = None
    """Steps to forecast. Default: as the data's windows."""
    inputs: dict[str, InputTensor] | None = None
    """Named tensors of a batch that ``forward`` takes. Default: its parameters, with the shapes that the data has."""
    deferred: bool | None = None
    """Whether it is built without memory first, so that no worker holds it whole. Default: where the function allows it."""

    @property
    def max_tokens(self) -> int | None:
        """The context."""
        return self.context

    @property
    def inputs_by_name(self) -> bool:
        """As the parameters of ``forward`` are called."""
        return True

    @property
    def builds_deferred(self) -> bool:
        """As ``deferred`` says."""
        return self.deferred is not False

    def needed(self, objective: ObjectiveConfig) -> tuple[str, ...]:
        """What the objective's outputs have."""
        return {
            "causal_lm": ("vocabulary", "context"),
            "sequence_to_sequence": ("vocabulary", "context", "target_context"),
            "forecasting": ("series", "horizon"),
            "custom": (),
        }.get(objective.kind, label_fields(objective))

    def with_tensors(self, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> CustomConfig:
        """With the shapes of its inputs as the data has them, and without optional ones that it has not."""
        inputs = {
            name: one.model_copy(update=_from_data(name, one, tensors))
            for name, one in (self.inputs or {}).items()
            if not (one.optional and tensors and name not in tensors)
        }
        return self.model_copy(update={"inputs": inputs})

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """What ``forward`` takes."""
        made = {}
        for name, one in (self.inputs or {}).items():
            spec = one.spec()
            if name == "tokens":
                ahead = 1 if objective.kind == "causal_lm" else 0
                longest = self.context + ahead if self.context else None
                spec = TensorSpec((None,), "int", below=self.vocabulary, longest=longest)
            elif name == "target" and objective.kind == "sequence_to_sequence":
                spec = TensorSpec((None,), "int", below=self.written_tokens, longest=self.target_context)
            elif name == "length" and self.context:
                spec = TensorSpec((), "int", below=self.context + 1, optional=one.optional)
            made[name] = spec
        return made

    def outputs_for(self, objective: ObjectiveConfig) -> int:
        """Classes, or numbers to predict."""
        return label_outputs(objective, self.outputs)

    def output_shape(self, objective: ObjectiveConfig) -> tuple[int | None, ...] | None:
        """What the model must return for one sample; None where the objective is a person's own."""
        match objective.kind:
            case "custom":
                return None
            case "causal_lm":
                return (None, self.vocabulary)
            case "sequence_to_sequence":
                return (None, self.written_tokens)
            case "token_classification":
                return (None, self.outputs)
            case "forecasting":
                return (self.horizon, self.series)
        return (self.outputs_for(objective),)

    def open_size(self, tensor: str) -> int | None:
        """A size that varies is counted as long as the context, or as the target's."""
        return self.target_context if tensor == "target" else self.context

    @property
    def written_tokens(self) -> int | None:
        """Number of different tokens that are written."""
        return self.target_vocabulary or self.vocabulary


class HuggingFaceConfig(CustomConfig):
    """A Hugging Face architecture, as ``transformers`` computes it (install ``trainwright[hf]``)."""

    OBJECTIVES: ClassVar[tuple[str, ...]] = (
        "causal_lm",
        "masked_lm",
        "classification",
        "regression",
        "binary",
        "multilabel",
        "token_classification",
        "sequence_to_sequence",
    )

    family: Literal["huggingface"] = "huggingface"  # type: ignore[assignment]
    """The architecture family."""
    architecture: PathText
    """Folder with a ``config.json``, or a name that ``transformers`` can look up where the network allows it."""
    head: Literal[
        "causal_lm",
        "masked_lm",
        "seq2seq",
        "sequence_classification",
        "token_classification",
        "image_classification",
    ] = "causal_lm"
    """What the architecture ends in; the objective follows from it where it is not written."""
    factory: Literal["orchestrator.models.transformers_models:build"] = (
        "orchestrator.models.transformers_models:build"
    )
    """Ours; nothing to write."""
    config: dict[str, Any] = {}
    """Fields of ``config.json`` to change. The others are filled in when the job is planned."""

    @property
    def own_objective(self) -> str:
        """The kind of objective that goes with the head."""
        return {
            "sequence_classification": "classification",
            "image_classification": "classification",
            "seq2seq": "sequence_to_sequence",
        }.get(self.head, self.head)

    @property
    def own_facts(self) -> dict[str, int]:
        """The token that its decoder begins with, where its ``config.json`` says it."""
        start = self.config.get("decoder_start_token_id")
        return {} if start is None else {"start_token": start}

    def needed(self, objective: ObjectiveConfig) -> tuple[str, ...]:
        """What the objective's outputs have."""
        return ("vocabulary",) if objective.kind == "masked_lm" else super().needed(objective)

    def output_shape(self, objective: ObjectiveConfig) -> tuple[int | None, ...] | None:
        """What the model must return for one sample."""
        return (None, self.vocabulary) if objective.kind == "masked_lm" else super().output_shape(objective)


def _from_data(
    name: str, one: InputTensor, tensors: dict[str, tuple[str, tuple[int, ...]]]
) -> dict[str, Any]:
    if name not in tensors:
        return {}
    kind, shape = tensors[name]
    return {
        "kind": one.kind or kind,
        "shape": one.shape if one.shape is not None else (None,) if name in _VARIABLE else shape,
    }


class CustomObjectiveConfig(ObjectiveConfig):
    """An objective of your own, made by a function or class of yours."""

    kind: Literal["custom"] = "custom"
    """Your own; for a model of family custom."""
    factory: Factory
    """``module:function`` (or a class) that returns an Objective; found as ``model.factory``."""
    config: dict[str, Any] = {}
    """Arguments of the function, by name."""
    phases: tuple[str, ...] = ()
    """Its phases. Filled in from the objective."""
    metrics: tuple[str, ...] = ()
    """What its evaluation measures beside the loss. Filled in from the objective."""
    inputs: dict[str, InputTensor] = {}
    """Tensors that its batches have. Filled in from the objective."""

    @property
    def phase_names(self) -> tuple[str, ...]:
        """As the objective says."""
        return self.phases

    @property
    def metric_names(self) -> tuple[str, ...]:
        """As the objective says."""
        return self.metrics

    @property
    def own_inputs(self) -> dict[str, TensorSpec]:
        """As the objective says."""
        return {name: one.spec() for name, one in self.inputs.items()}
