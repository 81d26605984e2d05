"""How long a job trains, in what batches, and by which rule it updates."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from orchestrator.models.configs.custom import Factory
from orchestrator.section import Section
from orchestrator.spec.numbers import Positive, PositiveFloat, Share

Recomputation = Literal["none", "blocks", "selective"]


def _check_factory(section: Section, *, own: tuple[str, ...], ours: tuple[str, ...]) -> None:
    """Raises ValueError where a field is given that the section's kind does not read."""
    fields = type(section).model_fields
    kind, factory = (getattr(section, name) for name in ("kind", "factory"))
    if (kind == "factory") != (factory is not None):
        raise ValueError("kind: factory and factory: module:function belong together")
    unread = ours if kind == "factory" else own
    if given := [name for name in unread if getattr(section, name) != fields[name].default]:
        raise ValueError(
            f"{given[0]}: kind {kind} does not read it; "
            + ("give it to your function in config" if kind == "factory" else "it goes with kind factory")
        )


class TriedOptimizer(Section):
    """What trying an optimizer of a person's own on a few numbers has told."""

    moments: tuple[str, ...] = ()
    """Names of the tensors that it keeps for a parameter, each of the parameter's shape."""
    counts: Literal["tensor", "number", "none"] = "none"
    """How it counts a parameter's updates, under ``step``."""
    shards: bool = False
    """Whether it updates rows of a parameter as it updates the whole."""
    partitions: bool = False
    """Whether it updates any range of elements so, also where parameters are exchanged for it after it was made."""


class OptimizerSpec(Section):
    """How parameters are updated from gradients."""

    kind: Literal["adamw", "sgd", "lion", "adafactor", "factory"] = "adamw"
    """The rule; ``factory``: one of your own."""
    factory: Factory | None = None
    """``module:function`` that is called with torch's parameter groups, and returns a ``torch.optim.Optimizer`` over them;
    imported as ``model.factory`` is. Only with kind ``factory``."""
    config: dict[str, Any] = {}
    """Further arguments of that function, by name."""
    tried: TriedOptimizer | None = None
    """What trying it tells. Default: found when the job is planned."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay (adamw, lion), L2 penalty (sgd)."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay of the first and second moment (adamw, lion)."""
    epsilon: PositiveFloat = 1e-8
    """Added to the root of the second moment (adamw)."""
    momentum: Share = 0.9
    """Momentum (sgd)."""
    no_decay: tuple[str, ...] = ("*.bias", "*norm*", "bias")
    """Parameters that match one of these patterns, and all with fewer than two dimensions, have no weight decay."""

    @model_validator(mode="after")
    def _factory_fits_kind(self) -> OptimizerSpec:
        _check_factory(self, own=("factory", "config"), ours=("betas", "epsilon", "momentum"))
        return self


class ScheduleSpec(Section):
    """How the learning rate moves over the steps."""

    kind: Literal["constant", "linear", "cosine", "factory"] = "cosine"
    """Shape after the warm-up; ``factory``: all of it is your own."""
    factory: Factory | None = None
    """``module:function`` that is called with a step (from 1) and the number of all steps, and returns what the peak learning
    rate is multiplied with; imported as ``model.factory`` is. Only with kind ``factory``."""
    config: dict[str, Any] = {}
    """Further arguments of that function, by name."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of linear rise to the peak."""
    final_ratio: Share = 0.1
    """Last learning rate as a share of the peak (linear, cosine)."""

    @model_validator(mode="after")
    def _factory_fits_kind(self) -> ScheduleSpec:
        _check_factory(self, own=("factory", "config"), ours=("warmup_steps", "final_ratio"))
        return self


class StopEarlySpec(Section):
    """When training no longer helps."""

    metric: str = "val/loss"
    """An evaluation metric, named as it is shown."""
    mode: Literal["min", "max"] = "min"
    """Whether less or more of it is better."""
    patience: Positive = 3
    """Evaluations in a row without a better value, after which training ends."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """By how much a value must be better than the best one to count, in the metric's units."""


class EmaSpec(Section):
    """A moving average of the weights, beside them."""

    decay: Annotated[float, Field(gt=0, lt=1)] = 0.999
    """How much of the average stays in each step; over the first steps it is less: (1 + n) / (10 + n) after n updates."""


class TrainingSpec(Section):
    """How long, in what batches, at what precision."""

    max_steps: Positive | None = None
    """Optimizer steps. One of ``max_steps`` and ``epochs`` must be given."""
    epochs: PositiveFloat | None = None
    """Passes over the training data."""
    global_batch_size: Positive = 64
    """Samples of one optimizer step, over all workers."""
    micro_batch_size: Positive | None = None
    """Samples of one forward on one worker. Default: the worker's whole share of the global batch. Where the number of workers
    may change: at most so many, and by default a worker's share in the largest group."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of forward and backward; parameters and moments stay fp32. fp16 needs a GPU."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer of every phase that ``phase_optimizers`` doesn't name."""
    phase_optimizers: dict[str, OptimizerSpec] = {}
    """Optimizer of a phase by name (a GAN's ``discriminator`` and ``generator``)."""
    schedule: ScheduleSpec = ScheduleSpec()
    """The learning-rate schedule."""
    clip_grad_norm: PositiveFloat | None = 1.0
    """Largest global norm of the gradient; null: no clipping."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides the initial weights, the order of samples, augmentation, masks and noise."""
    evaluate_every: Positive | None = None
    """Steps between evaluations. Default: a tenth of the run, and always at the end."""
    stop_early: StopEarlySpec | None = None
    """End when an evaluation metric no longer gets better; the run has then succeeded. Default: all steps are taken."""
    ema: EmaSpec | None = None
    """Keep an exponential moving average of the weights: it is evaluated as ``val/ema/loss`` and so on, and exported on
    request. fp32, laid out as the strategy lays out the parameters' masters. Default: none."""
    log_every: Positive = 10
    """Steps between logged metrics."""
    sample_every: Positive | None = None
    """Steps between generated samples (text, images, plots) in the tracker, made from ``data.eval``'s batches. Default: as
    ``evaluate_every``. Before the end they are left out where they would take more than 1 % of the time."""
    compile: bool = False
    """Compile the model with torch.compile."""
    tf32: bool = True
    """Compute fp32 matrix products and convolutions in TF32 on GPUs: ten bits of mantissa, several times as fast. A CPU has
    none."""
    deterministic: bool = False
    """The same bits each time on a GPU too, by torch's deterministic algorithms; slower. On a CPU they are the same anyway."""
    recomputation: Recomputation = "none"
    """What is kept of a block's forward for its backward: ``none`` is recomputed, all is kept; ``blocks``: of each block only its
    inputs are kept (activation checkpointing), least memory and about a third more time; ``selective``: what matrix products,
    convolutions and attention give is kept too, and only the cheap rest is recomputed."""
    check_replicas_every: Positive | None = None
    """Steps between checks that replicated parameters are equal on all ranks. It is always checked at the end."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainingSpec:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of training.max_steps and training.epochs")
        return self
