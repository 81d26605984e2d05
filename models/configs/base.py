"""What the section of every family and of every objective has."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from orchestrator.models.tensors import TensorSpec
from orchestrator.section import Section

Probability = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Layers = Annotated[int, Field(ge=1, le=2000)]
"""Blocks that stand one behind the other: each is built alone, so their number is time."""
Positive = Annotated[float, Field(gt=0)]


class ObjectiveConfig(Section):
    """What every objective's section has."""

    FROM_DATA: ClassVar[dict[str, str]] = {}
    """Field -> name of the data fact that fills it when not given."""

    METRICS: ClassVar[tuple[str, ...]] = ()
    """What its evaluation measures beside the loss; some only by an option."""

    PHASES: ClassVar[tuple[str, ...]] = ("model",)
    """Parts of each step that have an optimizer of their own, in order."""

    kind: str
    """What is minimized."""

    @property
    def phase_names(self) -> tuple[str, ...]:
        """Parts of each step that have an optimizer of their own, in order."""
        return self.PHASES

    @property
    def measured(self) -> tuple[str, ...]:
        """Metrics that were asked for beside its own: see ``models.metrics``."""
        return ()

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What its evaluation measures beside the loss, but for what goes by the data's classes."""
        return self.METRICS

    def misfit(self, model: FamilyConfig) -> str | None:
        """What it asks for that can't be had with a model, as a sentence; None where all can. Both are complete. Asked by the plan, and
        again where the objective is made, since what data is prepared into may have less than was planned.
        """
        return None

    @property
    def own_inputs(self) -> dict[str, TensorSpec]:
        """Tensors of a batch that only the objective's own code names; none in those of ours."""
        return {}

    @property
    def takes_missing_labels(self) -> bool:
        """Whether a sample may lack some of its labels, or all: NaN."""
        return False

    @property
    def differentiates_gradients(self) -> bool:
        """Whether its loss holds a gradient, which is differentiated in turn."""
        return False

    @property
    def keeps_documents(self) -> bool:
        """Whether the model is told which document each token is of, and keeps these apart."""
        return False


def label_fields(objective: ObjectiveConfig) -> tuple[str, ...]:
    """One yes-or-no label takes one output, whatever the data counts."""
    return () if objective.kind == "binary" else ("outputs",)


def label_outputs(objective: ObjectiveConfig, outputs: int | None) -> int:
    """Outputs of the last layer: one for a yes-or-no label, else as many as the config says."""
    if objective.kind == "binary":
        return 1
    assert outputs is not None, "the config must be completed from the data first"
    return outputs


def heads_fit(width: int, heads: int, *, heads_per_key_value: int = 1, positions: str = "learned") -> None:
    """Raises ValueError where attention can't be cut into such heads."""
    if width % heads:
        raise ValueError(f"heads {heads} does not divide width {width}")
    if heads % heads_per_key_value:
        raise ValueError(f"heads_per_key_value {heads_per_key_value} does not divide heads {heads}")
    if positions == "rotary" and (width // heads) % 2:
        raise ValueError(f"rotary positions need an even width per head, not {width // heads}")


def _with_sizes(schema: dict[str, Any], config: type[FamilyConfig]) -> None:
    """The named sizes, for editors that complete them and for ``explain``."""
    size = schema["properties"]["size"]
    size["anyOf"][0]["enum"] = list(config.SIZES)
    size["sizes"] = {
        name: {field: list(value) if isinstance(value, tuple) else value for field, value in fields.items()}
        for name, fields in config.SIZES.items()
    }


class FamilyConfig(Section):
    """What every family's section has. A named size fills in what is not written beside it."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {}
    FROM_DATA: ClassVar[dict[str, str]] = {}
    """Field -> name of the data fact (``DataFacts.dims`` or ``.lists``) that fills it when not given."""
    OBJECTIVES: ClassVar[tuple[str, ...]] = ()
    """Kinds of objective that the family can be trained with; the first is its own."""

    family: str
    """The architecture family."""
    size: str | None = None
    """A named size of the family; fields written beside it win. Default: the fields' own defaults."""

    model_config = ConfigDict(json_schema_extra=_with_sizes)

    @model_validator(mode="before")
    @classmethod
    def _fill_from_size(cls, given: Any) -> Any:
        if isinstance(given, dict) and isinstance(size := given.get("size"), str):
            if size not in cls.SIZES:
                family = cls.model_fields["family"].default
                raise ValueError(f"{family} has no size {size!r}; it has {', '.join(cls.SIZES)}")
            return {**cls.SIZES[size], **given}
        return given

    @property
    def max_tokens(self) -> int | None:
        """Longest sequence of tokens that the model reads; None where it reads none."""
        return None

    @property
    def own_objective(self) -> str:
        """Kind of the objective that it is trained with where the job names none."""
        return self.OBJECTIVES[0]

    @property
    def own_facts(self) -> dict[str, int]:
        """Data facts by name that its weights decide, whatever the data says."""
        return {}

    @property
    def inputs_by_name(self) -> bool:
        """Whether forward takes the batch's tensors by name, not in their order."""
        return False

    @property
    def scores_in_chunks(self) -> bool:
        """Whether its language head can give a loss without holding the logits of all tokens."""
        return False

    @property
    def reads_borders(self) -> bool:
        """Whether forward also takes where packed documents begin, after their numbers: a GPU is sooner done with it."""
        return False

    @property
    def normalizes_over_shares(self) -> bool:
        """Whether a sample's result depends on which others its worker has, as with batch normalization."""
        return False

    @property
    def builds_deferred(self) -> bool:
        """Whether its modules can be built without memory first."""
        return True

    def with_tensors(self, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> FamilyConfig:
        """The config with what it takes from the data's tensors: name -> kind and shape of a sample's."""
        return self

    def needed(self, objective: ObjectiveConfig) -> tuple[str, ...]:
        """The fields of ``FROM_DATA`` that must be known with this objective; the others stay as they are."""
        return tuple(self.FROM_DATA)

    def input_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """The named tensors that the model's forward takes, in the order of its arguments."""
        raise NotImplementedError

    def export_tensors(self, objective: ObjectiveConfig) -> dict[str, TensorSpec]:
        """Those that an exported model takes; others only where it is another module than is trained on data."""
        return self.input_tensors(objective)

    def export_parts(self, objective: ObjectiveConfig) -> dict[str, dict[str, TensorSpec]]:
        """What each graph of an exported model takes, by its name; more than one only where the model has ``parts``."""
        return {"model": self.export_tensors(objective)}

    def outputs_for(self, objective: ObjectiveConfig) -> int:
        """Outputs of the last layer, in a family that can be trained with labels."""
        raise NotImplementedError

    def open_size(self, tensor: str) -> int | None:
        """What the config says of the size that a tensor's spec leaves open (any image size is taken); None: nothing."""
        return None


class WeightsConfig(FamilyConfig):
    """What the section of a family has whose fields can be taken from weights."""

    from_: Annotated[Literal["weights"] | None, Field(alias="from")] = None
    """``weights``: all that is not written beside it is as the ``config.json`` of ``initialize.weights`` says."""

    model_config = ConfigDict(populate_by_name=True)
