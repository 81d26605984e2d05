"""Whether what a job asks for goes together: precision, device, strategy, memory."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import SpecError
from orchestrator.planning.plan import MemoryEstimate, ResolvedJob
from orchestrator.section import format_bytes
from orchestrator.spec.scaling import ScalingSpec
from orchestrator.spec.training import OptimizerSpec, TrainingSpec


def check_fit(job: ResolvedJob) -> None:
    """Raises SpecError where two sections ask for what can't be had together; it names both."""
    training, scaling, strategy = job.training, job.scaling, job.strategy
    if training.precision == "fp16" and not scaling.gpus_per_worker:
        raise SpecError("training.precision: fp16 needs a GPU (scaling.gpus_per_worker: 1); use bf16 or fp32")
    if scaling.accelerator_type and not scaling.gpus_per_worker:
        raise SpecError("scaling.accelerator_type is given, but scaling.gpus_per_worker is 0")
    if job.objective.differentiates_gradients:
        _check_twice_differentiable(training)
    if strategy.kind != "zero":
        return
    if job.recovery.on_spike and job.recovery.on_spike.action == "skip_batch":
        raise SpecError(
            "recovery.on_spike.action: skip_batch needs strategy ddp or fsdp: DeepSpeed does not leave out an update whose"
            " gradient is finite; use rewind"
        )
    for field in ("quantized_weights", "quantized_gradients"):
        if getattr(strategy, field) and not scaling.gpus_per_worker:
            raise SpecError(
                f"strategy.{field}: DeepSpeed quantizes on GPUs only, and scaling.gpus_per_worker is 0; leave it out"
            )
    if strategy.offload.parameters == "nvme" and training.precision == "fp32":
        # it keeps them in 16 bits whatever the model has, and so trains another model than the one asked for
        raise SpecError(
            "strategy.offload.parameters: DeepSpeed keeps parameters on nvme in 16 bits, and training.precision is"
            " fp32; use precision bf16, or parameters: cpu"
        )


def _check_twice_differentiable(training: TrainingSpec) -> None:
    asked = "training.compile: compiled blocks" if training.compile else ""
    if training.recomputation == "selective":
        asked = "training.recomputation: selective keeps products that"
    if asked:
        raise SpecError(
            f"{asked} can't be differentiated twice, as objective.gradient_penalty asks; use compile: false and recomputation"
            " none or blocks"
        )


_BEST_IS = {
    **dict.fromkeys(
        (
            "accuracy",
            "precision",
            "recall",
            "f1",
            "auroc",
            "average_precision",
            "r2",
            "exact_match",
            "bleu",
            "chrf",
        ),
        "max",
    ),
    **dict.fromkeys(("loss", "mse", "mae", "perplexity", "bits_per_byte", "cer", "wer"), "min"),
}
"""Of metrics that have a good end: which. ``f1_macro`` is a kind of ``f1``."""


def _optimizers(job: ResolvedJob) -> list[OptimizerSpec]:
    return [job.training.optimizer, *job.training.phase_optimizers.values()]


def needs_whole(job: ResolvedJob) -> bool:
    """Whether an optimizer updates parameters as wholes, so that no strategy may shard them."""
    return any(
        one.kind == "adafactor" or (one.tried is not None and not one.tried.shards)
        for one in _optimizers(job)
    )


def check_optimizers(job: ResolvedJob) -> None:
    """Raises SpecError where a person's own optimizer can't be used under the strategy."""
    kind = job.strategy.kind
    for one in _optimizers(job):
        if one.tried is None or kind == "ddp":
            continue
        if not one.tried.shards:
            raise SpecError(
                f"training.optimizer.factory: {one.factory} updates a part of a parameter in another way than the whole, and"
                f" strategy {kind} shards parameters; use strategy ddp"
            )
        if kind == "zero" and not one.tried.partitions:
            raise SpecError(
                f"training.optimizer.factory: {one.factory} can't be given flat ranges of parameters in their place after it"
                " was made, as strategy zero does; use strategy ddp or fsdp, or go by self.param_groups alone"
            )


def check_averages(job: ResolvedJob) -> None:
    """Raises SpecError where averages of the weights are asked for and can't be kept."""
    if job.training.ema is None:
        return
    if job.objective.kind == "adversarial":
        raise SpecError(
            "training.ema: an adversarial objective averages its generator by itself (objective.ema_decay); leave training.ema"
            " out"
        )
    if job.strategy.kind == "zero" and job.strategy.offload.optimizer == "nvme":
        raise SpecError(
            "training.ema: averages are kept beside the masters, which strategy.offload.optimizer: nvme keeps in files; use cpu"
        )


def check_own_averages(training: TrainingSpec, averages: Sequence[str]) -> None:
    """Raises SpecError where averages are asked for of a model that has modules of its own for them."""
    if training.ema is not None and averages:
        raise SpecError(
            f"training.ema: the model averages its weights by itself, in module {averages[0]!r} (average_of); leave training.ema"
            " out, or that module"
        )


OF_AVERAGES = "ema/"
"""Before names of metrics that were measured with averaged weights."""


def good_end(metric: str) -> str | None:
    """Whether less (``min``) or more (``max``) of an evaluation's metric is better; None where that isn't known."""
    name = metric.removeprefix("val/").removeprefix(OF_AVERAGES)
    kinds = (name, name.removesuffix("_macro").removesuffix("_micro"), name.partition("_top_")[0])
    return next((_BEST_IS[kind] for kind in kinds if kind in _BEST_IS), None)


def _measured(job: ResolvedJob) -> list[str]:
    """Names of what an evaluation measures."""
    names = ("loss", *job.objective.metric_names)
    weights = ("", OF_AVERAGES) if job.training.ema else ("",)
    return [f"val/{prefix}{name}" for prefix in weights for name in names]


def check_best(job: ResolvedJob) -> None:
    """Raises SpecError where the metric that the best checkpoints are kept by is none that is measured, or its worst
    would be kept.
    """
    keep, measured = job.checkpoint.keep, _measured(job)
    if keep.metric not in measured:
        raise SpecError(
            f"checkpoint.keep.metric: {keep.metric!r} is not measured; {job.objective.kind} measures {', '.join(measured)}"
        )
    mode = good_end(keep.metric) or keep.mode
    if keep.best and mode != keep.mode:
        raise SpecError(
            f"checkpoint.keep.mode: {keep.mode} would keep the worst checkpoints by {keep.metric}; write mode: {mode}"
        )
    if job.tracking.log_checkpoint == "best" and (job.data.eval is None or not keep.best):
        missing = "data.eval" if job.data.eval is None else "checkpoint.keep.best: 1 or more"
        raise SpecError(f"tracking.log_checkpoint: best needs {missing}; or write newest")


def check_measured(job: ResolvedJob) -> None:
    """Raises SpecError where a metric is asked for that the data can't give."""
    tokenizer = getattr(job.data.prepare, "tokenizer", None)
    for name in ("bleu", "chrf"):
        if name in job.objective.measured and tokenizer is None:
            raise SpecError(
                f"objective.metrics: {name} compares texts, and the data comes as tokens; have data.prepare make them of text,"
                " or leave it out"
            )
    if "bits_per_byte" not in job.objective.measured:
        return
    said = "objective.metrics: bits_per_byte needs to know how many bytes of text each token stands for, and "
    if tokenizer is None:
        raise SpecError(
            f"{said}the data comes as tokens; have data.prepare make them of text, or leave it out"
        )
    if tokenizer.kind == "words" or getattr(tokenizer, "unknown", False):
        raise SpecError(
            f"{said}a tokenizer of kind {tokenizer.kind} does not spell all of a text out; use bytes or bpe, or leave it out"
        )


def check_stop_early(job: ResolvedJob) -> None:
    """Raises SpecError where training is to end by a metric that is not measured, or by the wrong end of it."""
    early = job.training.stop_early
    if early is None:
        return
    if job.data.eval is None:
        raise SpecError("training.stop_early needs data.eval: nothing is evaluated")
    measured = _measured(job)
    if early.metric not in measured:
        raise SpecError(
            f"training.stop_early.metric: {early.metric!r} is not measured; {job.objective.kind} measures"
            f" {', '.join(measured)}"
        )
    if (mode := good_end(early.metric) or early.mode) != early.mode:
        raise SpecError(
            f"training.stop_early.mode: {early.mode} would wait for {early.metric} to get worse; write mode: {mode}"
        )


def check_phases(job: ResolvedJob) -> None:
    """Raises SpecError where an optimizer is given for a phase that the objective has not."""
    phases = job.objective.phase_names
    for name in job.training.phase_optimizers:
        if name not in phases:
            raise SpecError(
                f"training.phase_optimizers.{name[:40]}: {job.objective.kind} has no such phase; it has {', '.join(phases)}"
            )


def memory_warning(scaling: ScalingSpec, memory: MemoryEstimate) -> str | None:
    """A sentence where a CPU worker's memory is less than the estimate; None where it is enough or none is set aside."""
    limit = scaling.memory_per_worker
    if not limit or scaling.gpus_per_worker or memory.total <= limit:
        return None
    return (
        f"warning: the model's state and activations need about {format_bytes(memory.total)} a worker,"
        f" but scaling.memory_per_worker is {format_bytes(limit)}"
    )
