"""JobSpec: what a person wants, as they write it. One class a section; ``explain`` and the docs read these docstrings."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import model_validator

from orchestrator.models.configs import HuggingFaceConfig, LoraSpec, ModelConfig, ObjectiveSection
from orchestrator.section import PathText, Section, Written
from orchestrator.spec.addresses import OpenText
from orchestrator.spec.checkpoint import CheckpointSpec
from orchestrator.spec.data import DataSpec
from orchestrator.spec.recovery import RecoverySpec
from orchestrator.spec.reserved import refuse_reserved
from orchestrator.spec.scaling import ScalingSpec
from orchestrator.spec.strategy import DdpStrategy, WrittenStrategy
from orchestrator.spec.tracking import TrackingSpec
from orchestrator.spec.training import TrainingSpec


class InitializeSpec(Section):
    """Weights to start from, and what to keep as it is."""

    weights: PathText | None = None
    """A ``.safetensors`` file, or a checkpoint folder of a run. Default: the family's own initialization."""
    prefix: str = ""
    """Only weights whose names begin with this are taken, and it is cut off."""
    into: str = ""
    """Put before each name after ``prefix`` was cut."""
    strict: bool = True
    """Every parameter must be matched with its shape; when false, what did not match keeps its initial value."""
    grow_vocabulary: bool = False
    """The model may have more tokens than the weights: rows of its embedding, and of its head, are kept, and further ones
    begin as their mean (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models")."""
    freeze: tuple[str, ...] = ()
    """Parameters whose names match one of these patterns (``*`` as in a shell) are not trained."""
    lora: LoraSpec | None = None
    """Train low-rank adapters beside layers of the model, whose weights stay as they are. Default: all is trained."""

    @model_validator(mode="after")
    def _adapters_freeze_by_themselves(self) -> InitializeSpec:
        if self.lora is not None and self.grow_vocabulary:
            raise ValueError(
                "initialize.grow_vocabulary: with initialize.lora new rows would never be trained; grow the vocabulary in"
                " a run that trains the whole model, and start from its export"
            )
        if self.lora is not None and self.freeze:
            raise ValueError(
                "initialize.freeze: with initialize.lora nothing but adapters is trained; leave it out"
            )
        return self


class EnvironmentSpec(Section):
    """What a job's processes find around them."""

    working_dir: PathText | None = None
    """Folder that travels with the job and stands first on the import path. Default: none."""
    pip: tuple[str, ...] = ()
    """Packages to install on the workers before the start. Where the run is on this machine, a plan asks pip whether it finds
    them, and refuses those that it does not."""
    env: dict[str, OpenText] = {}
    """Environment variables. No secrets here: they would be stored with the run."""

    @model_validator(mode="after")
    def _no_process_control(self) -> EnvironmentSpec:
        refuse_reserved("environment.env", self.env)
        return self


class JobSpec(Section):
    """One training job."""

    name: Annotated[
        str,
        Written(
            r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
            "small letters, digits and hyphens, at most 40, with no hyphen first or last",
        ),
    ]
    """Name of the job: small letters, digits and hyphens, at most 40."""
    description: str = ""
    """What a reader of the tracker should know; Markdown."""
    model: ModelConfig
    """Architecture family and its config or named size."""
    objective: ObjectiveSection | None = None
    """What to minimize. Default: the family's own."""
    data: DataSpec
    """Where samples come from and what is done to them."""
    training: TrainingSpec
    """How long, in what batches, at what precision."""
    initialize: InitializeSpec = InitializeSpec()
    """Weights to start from."""
    strategy: WrittenStrategy = DdpStrategy()
    """How training is distributed."""
    scaling: ScalingSpec = ScalingSpec()
    """How many workers, and what each gets."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """What is saved, and how often."""
    recovery: RecoverySpec = RecoverySpec()
    """What is tried when something fails."""
    tracking: TrackingSpec = TrackingSpec()
    """Where runs, metrics and models are looked at."""
    environment: EnvironmentSpec = EnvironmentSpec()
    """What the job's processes find around them."""

    @property
    def model_factories(self) -> list[str]:
        """The person's own functions that make the model and the objective; none with a family of ours."""
        sections = (self.model, self.objective)
        return [factory for one in sections if (factory := getattr(one, "factory", None))]

    @property
    def own_factories(self) -> list[str]:
        """All of the person's own functions: those, and what makes optimizers and the learning rate."""
        training = self.training
        optimizers = (training.optimizer, *training.phase_optimizers.values())
        named = (*(one.factory for one in optimizers), training.schedule.factory)
        return [*self.model_factories, *(factory for factory in named if factory)]

    @model_validator(mode="after")
    def _own_model_has_an_objective(self) -> JobSpec:
        if self.model.family == "custom" and self.objective is None:
            raise ValueError(f"objective: a model of your own needs one: {', '.join(self.model.OBJECTIVES)}")
        return self

    @model_validator(mode="after")
    def _one_vocabulary(self) -> JobSpec:
        if isinstance(self.model, HuggingFaceConfig) and getattr(self.data.prepare, "target_tokenizer", None):
            raise ValueError(
                "data.prepare.target_tokenizer: an architecture of huggingface has one vocabulary for what it reads and what"
                " it writes; leave it out, and tokenizer is that of both"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _auto_in_short(cls, given: Any) -> Any:
        """``strategy: auto`` stands for ``strategy: {kind: auto}``."""
        if isinstance(given, dict) and given.get("strategy") == "auto":
            return {**given, "strategy": {"kind": "auto"}}
        return given
