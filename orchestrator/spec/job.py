"""JobSpec: what a person wants, as they write it. One class a section; ``explain`` and the docs read these docstrings."""

from __future__ import annotations

import warnings
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from orchestrator.models.configs import HuggingFaceConfig, LoraSpec, ModelConfig, ObjectiveSection
from orchestrator.models.configs.custom import Factory
from orchestrator.section import Bytes, PathText, Seconds, Section, Written
from orchestrator.spec.addresses import OpenText, StoreAddress
from orchestrator.spec.data import DataSpec
from orchestrator.spec.reserved import refuse_reserved

Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Recomputation = Literal["none", "blocks", "selective"]


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


class DdpStrategy(Section):
    """A full copy of the model on each worker; gradients are averaged."""

    kind: Literal["ddp"] = "ddp"
    """Distributed data parallel."""
    bucket_megabytes: PositiveFloat = 25
    """Size of the buckets in which gradients are averaged while the backward goes on."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format in which gradients are exchanged: ``bf16`` sends half the bytes, and changes the numbers."""


class FsdpStrategy(Section):
    """Parameters, gradients and moments sharded over the workers (torch FSDP2)."""

    kind: Literal["fsdp"] = "fsdp"
    """Fully sharded data parallel."""
    reshard_after_forward: bool = True
    """Free the gathered parameters of blocks after the forward: less memory, one more gather. Those outside of blocks stay."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format in which gradients are exchanged: ``bf16`` sends half the bytes, and changes the numbers."""
    offload: bool = False
    """Keep shards in CPU memory."""
    shard_group: Positive | Literal["node"] | None = None
    """Workers that share one copy of the model: a number that divides the workers, or ``node`` for as many as a node
    takes. Blocks are then gathered within a group, and gradients are added up between groups. Default: all workers."""


class ZeroOffload(Section):
    """Where ZeRO keeps what does not have to be on the device."""

    optimizer: Literal["none", "cpu", "nvme"] = "none"
    """Optimizer state and fp32 master weights; ``nvme`` with stage 3 only."""
    parameters: Literal["none", "cpu", "nvme"] = "none"
    """Parameters (stage 3 only); ``nvme`` with 16-bit precision only."""
    nvme_path: PathText | None = None
    """Folder on a local NVMe disk, with ``nvme``."""


class ZeroStrategy(Section):
    """DeepSpeed ZeRO (Rajbhandari et al. 2020, arXiv:1910.02054)."""

    kind: Literal["zero"] = "zero"
    """DeepSpeed ZeRO."""
    stage: Literal[1, 2, 3] = 2
    """What is partitioned: 1 optimizer state, 2 and gradients, 3 and parameters."""
    offload: ZeroOffload = ZeroOffload()
    """Where partitioned state is kept."""
    shard_group: Positive | Literal["node"] | None = None
    """Stage 3: workers that keep a second copy of the parameters among them, from which the backward gathers
    (hpZ, Wang et al. 2023, arXiv:2306.10209): a number that divides the workers, or ``node`` for as many as a node takes.
    Default: none keep one."""
    quantized_weights: bool = False
    """Stage 3 on GPUs: gather parameters in 8 bits (qwZ, same paper). Changes the numbers."""
    quantized_gradients: bool = False
    """Stage 3 on GPUs: exchange gradients in 4 bits (qgZ, same paper). Changes the numbers."""
    deepspeed: dict[str, Any] = {}
    """Raw DeepSpeed keys. One that contradicts the job file is an error."""

    @model_validator(mode="after")
    def _offload_fits_stage(self) -> ZeroStrategy:
        if self.offload.parameters != "none" and self.stage != 3:
            raise ValueError(f"strategy.offload.parameters needs strategy.stage 3, not {self.stage}")
        if self.shard_group == 1:
            raise ValueError(
                "strategy.shard_group: 1 would be a whole copy on each worker; use strategy.stage 2, or 2 and more"
            )
        for field in ("shard_group", "quantized_weights", "quantized_gradients"):
            if getattr(self, field) and self.stage != 3:
                raise ValueError(f"strategy.{field} needs strategy.stage 3, not {self.stage}")
        if "nvme" in (self.offload.optimizer, self.offload.parameters) and not self.offload.nvme_path:
            raise ValueError("strategy.offload.nvme_path must be given with nvme")
        if self.offload.optimizer == "nvme" and self.stage != 3:
            raise ValueError(
                f"strategy.offload.optimizer: nvme needs strategy.stage 3, not {self.stage}; use cpu"
            )
        return self


class AutoStrategy(Section):
    """The fastest that fits the device, decided when the job is planned: see docs/strategies.md for the rule."""

    kind: Literal["auto"] = "auto"
    """Let the plan decide. It decides all of the strategy: no other field goes with it."""

    @model_validator(mode="before")
    @classmethod
    def _decides_alone(cls, given: Any) -> Any:
        more = sorted(set(given) - {"kind"}) if isinstance(given, dict) else []
        if more:
            raise ValueError(
                f"kind auto decides the whole strategy; take {more[0]} out, or write the kind that it goes with"
            )
        return given


StrategySection = Annotated[DdpStrategy | FsdpStrategy | ZeroStrategy, Field(discriminator="kind")]
"""A strategy that leaves nothing open."""
WrittenStrategy = Annotated[
    DdpStrategy | FsdpStrategy | ZeroStrategy | AutoStrategy,
    Field(discriminator="kind"),
]


class WorkerRange(Section):
    """A number of workers that changes with what the cluster has room for. See docs/elastic.md."""

    min: Positive
    """Fewest: with room for fewer the run waits."""
    max: Positive
    """Most."""
    stabilization_window: Seconds = 60
    """How long there must have been room for more workers, and how long the group must have had its size, before the run saves
    and starts again with more. It goes on with fewer at once."""

    @model_validator(mode="after")
    def _in_order(self) -> WorkerRange:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is more than max {self.max}")
        return self


def _number_or_range(given: Any) -> str:
    return "range" if isinstance(given, dict | WorkerRange) else "number"


Workers = Annotated[
    Annotated[Positive, Tag("number")] | Annotated[WorkerRange, Tag("range")], Discriminator(_number_or_range)
]


class ScalingSpec(Section):
    """How many workers, and what each gets."""

    workers: Workers = 1
    """Worker processes, one for each GPU or for each share of CPU: a number, or ``{min: 2, max: 8}`` for as many as there is room
    for."""
    cpus_per_worker: PositiveFloat = 1
    """CPU cores of a worker."""
    gpus_per_worker: Literal[0, 1] = 0
    """GPUs of a worker."""
    memory_per_worker: Bytes | None = None
    """Memory of a worker that the cluster sets aside. Default: nothing is set aside."""
    accelerator_type: str | None = None
    """GPU type as Ray names it, e.g. ``H100``. Default: any."""
    placement: Literal["pack", "spread"] = "pack"
    """Few nodes, or as many as there are."""
    node_labels: dict[str, str] = {}
    """Only nodes with these labels."""

    @property
    def range(self) -> WorkerRange | None:
        """Where the number of workers may change, in which bounds."""
        return self.workers if isinstance(self.workers, WorkerRange) else None

    @property
    def most_workers(self) -> int:
        """The number of workers, or the largest that it may be."""
        return self.workers.max if isinstance(self.workers, WorkerRange) else self.workers


class KeepSpec(Section):
    """Which checkpoints stay."""

    last: Positive = 2
    """The newest ones."""
    best: Annotated[int, Field(ge=0)] = 1
    """The best ones by ``metric``."""
    metric: str = "val/loss"
    """An evaluation metric, named as it is shown."""
    mode: Literal["min", "max"] = "min"
    """Whether less or more of it is better."""


class CheckpointSpec(Section):
    """What is saved, and how often. Where is the cluster's to say."""

    every_steps: Positive | None = None
    """Steps between checkpoints. Default: a tenth of the run, and always at the end."""
    keep: KeepSpec = KeepSpec()
    """Retention."""
    asynchronous: bool = True
    """Copy the state aside and write in the background; the next save waits for the last."""


class SpikeSpec(Section):
    """When a step's loss is a spike, and what is done then. See docs/checkpoints.md."""

    factor: Annotated[float, Field(gt=1)]
    """How many times the mean of the last ``window`` steps' losses the loss must be; one that is no number is a spike too."""
    window: Annotated[int, Field(ge=2, le=10_000)] = 20
    """Steps that are compared with, spikes not counted; before there are so many none is one."""
    action: Literal["fail", "skip_batch", "rewind"] = "fail"
    """``fail``: end with a sentence. ``skip_batch``: leave the step's update out. ``rewind``: go back to the last checkpoint, and
    from there on leave the step's batch out."""
    most: Positive = 10
    """Batches that may be left out over the whole run; one more ends it."""


class RecoverySpec(Section):
    """What is tried when something fails."""

    max_failures: Annotated[int, Field(ge=0)] = 3
    """Restarts after a lost worker or an infrastructure fault. An error in the job's own code is not retried."""
    exclude_nodes_after: Positive = 3
    """Faults of a node's hardware (a GPU, its driver, its links) in one launch, after which no worker is started on it any
    more; more than ``max_failures``: never. On this machine alone there is no other node."""
    worker_start_timeout: Seconds = 600
    """Longest wait for all workers to start."""
    hang_timeout: Seconds = 60
    """How long a worker may stand still beyond the longest step so far. Then the attempt is ended, what all workers do is kept in
    a file of the run that names the one that the others wait for, and the run starts again. A start, a wait for data, an
    evaluation, a save and samples may take ten times as long, where the process answers, and so may any wait of one worker for others."""
    on_notice: Literal["save", "ignore"] = "save"
    """When a worker is told that it will be taken away (its node is drained, its process gets SIGTERM, or the cluster's
    ``notice_file`` appears): finish the step, save, and start again on what is there, which is not counted as a failure; or
    train until it is gone."""
    warm_processes: bool = True
    """While the workers train, a process for each waits on its node with torch loaded, and a restart takes it. It costs about 0.47 GB of
    the node's memory, and nothing of a GPU; ``plan`` says so. On this machine none waits in the first half minute, nor where less
    than twice that is free."""
    spare_workers: Annotated[int, Field(ge=0)] = 0
    """On a Ray cluster: for so many workers room is held beside those that train, which nobody else is given, so that a lost one is
    replaced at once and, where the number of workers may change, the group need not become smaller. They cost what workers
    cost."""
    stop_grace: Seconds = 120
    """How long a graceful stop may take before the run is ended."""
    on_spike: SpikeSpec | None = None
    """What is done when the loss of a step is far above that of the steps before it. Default: nothing is looked for."""
    leave_out: tuple[Positive, ...] = ()
    """Steps whose batches are not trained on: they are counted, and nothing is updated. A resumed run may only name steps that
    are still to come."""
    accept_changed_data: bool = False
    """Go on from a checkpoint though the training data is not what it was trained on; the run's log says what changed.
    What classes, columns, categories and tokens stand for must be what it was. From there on the order is that of the data as it is: of the epoch that had begun, samples may come again or be left
    out."""
    accept_changed_code: bool = False
    """Go on from a checkpoint though the job's own code (``factory`` of the model, the objective, an optimizer or the schedule, and what they import) is not what it was
    trained with; the run's log says which files changed."""


class RegisterSpec(Section):
    """Where the logged model goes in MLflow's registry."""

    name: Annotated[str, Written(r"^[^/:\s]([^/:]{0,198}[^/:\s])?$", "at most 200 letters, without / and :")]
    """The registered model, which is made where it is not there; each run adds a version."""
    alias: Annotated[
        str | None,
        Written(
            r"^(?!v\d+$|latest$)[A-Za-z0-9_-]{1,100}$",
            "letters, digits, _ and -, and not latest or v and a number, which MLflow keeps for itself",
        ),
    ] = None
    """A name that points to the version from then on, e.g. ``champion``. Default: none."""


with warnings.catch_warnings():
    # pydantic takes ``register`` for an attribute of ours; it is the metaclass's, which no instance has
    warnings.filterwarnings("ignore", 'Field name "register"')

    class TrackingSpec(Section):
        """Where runs, metrics and models are looked at."""

        kind: Literal["mlflow", "none"] = "mlflow"
        """The tracker."""
        uri: StoreAddress = None
        """MLflow tracking URI, without a password. Default: the cluster's, else ``MLFLOW_TRACKING_URI``, else SQLite in the
        home."""
        experiment: str = "trainwright"
        """MLflow experiment."""
        tags: dict[str, str] = {}
        """More tags of the run."""
        log_model: bool = True
        """Log the model so that it loads back with MLflow."""
        log_checkpoint: Literal["newest", "best"] = "newest"
        """Whose model: that of the newest checkpoint, or of the best by ``checkpoint.keep.metric``."""
        system_metrics: bool = False
        """Sample CPU, memory, GPUs, network and disk of each node, every 10 seconds, as ``system/node_0/...``."""
        register: RegisterSpec | None = None
        """Register the logged model. Default: it is logged with the run alone."""

        @model_validator(mode="after")
        def _registers_what_is_logged(self) -> TrackingSpec:
            if self.register is not None and not (self.log_model and self.kind == "mlflow"):
                raise ValueError("tracking.register needs tracking.log_model: true and tracking.kind: mlflow")
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
