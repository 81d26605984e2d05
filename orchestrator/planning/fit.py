"""Whether what a job asks for goes together: precision, device, strategy, memory."""

from __future__ import annotations

from orchestrator.errors import SpecError
from orchestrator.planning.plan import MemoryEstimate, ResolvedJob
from orchestrator.section import format_bytes
from orchestrator.spec.job import JobSpec, ScalingSpec


def check_fit(job: JobSpec) -> None:
    """Raises SpecError where two sections ask for what can't be had together; it names both."""
    training, scaling, strategy = job.training, job.scaling, job.strategy
    if training.precision == "fp16" and not scaling.gpus_per_worker:
        raise SpecError("training.precision: fp16 needs a GPU (scaling.gpus_per_worker: 1); use bf16 or fp32")
    if scaling.accelerator_type and not scaling.gpus_per_worker:
        raise SpecError("scaling.accelerator_type is given, but scaling.gpus_per_worker is 0")
    if strategy.kind != "zero":
        return
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
    if training.compile:
        raise SpecError(
            "training.compile: strategy zero can't be compiled; use strategy ddp or fsdp, or compile: false"
        )


def check_best(job: ResolvedJob) -> None:
    """Raises SpecError where the metric that the best checkpoints are kept by is none that is measured."""
    metric, measured = (
        job.checkpoint.keep.metric,
        [f"val/{name}" for name in ("loss", *job.objective.METRICS)],
    )
    if metric not in measured:
        raise SpecError(
            f"checkpoint.keep.metric: {metric!r} is not measured; {job.objective.kind} measures {', '.join(measured)}"
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
