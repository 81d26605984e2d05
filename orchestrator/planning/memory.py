"""Bytes on one worker, from counts. The formulas are ZeRO's (Rajbhandari et al. 2020, arXiv:1910.02054, section 3)."""

from __future__ import annotations

from orchestrator.planning.plan import MemoryEstimate
from orchestrator.spec.job import DdpStrategy, FsdpStrategy, JobSpec, ZeroStrategy

_MOMENTS = {"adamw": 2, "sgd": 1, "lion": 1, "adafactor": 1}
"""fp32 tensors of the parameter's size that an optimizer keeps (adafactor: at most)."""


def estimate_memory(
    job: JobSpec,
    *,
    world_size: int,
    micro_batch_size: int,
    parameters: int,
    trainable: int,
    activation_elements: int,
) -> MemoryEstimate:
    """What one worker holds.

    Args:
        activation_elements: elements kept for the backward for one sample.

    """
    strategy = job.strategy
    compute_bytes = 4 if job.training.precision == "fp32" else 2
    moments = _MOMENTS[job.training.optimizer.kind]
    if job.training.optimizer.kind == "sgd" and job.training.optimizer.momentum == 0:
        moments = 0

    parameter_bytes = 4 * parameters
    gradient_bytes = 4 * trainable
    optimizer_bytes = 4 * moments * trainable
    offloaded = 0
    match strategy:
        case DdpStrategy():
            pass
        case FsdpStrategy():
            parameter_bytes //= world_size
            gradient_bytes //= world_size
            optimizer_bytes //= world_size
            if strategy.offload:
                offloaded = parameter_bytes + gradient_bytes + optimizer_bytes
        case ZeroStrategy():
            optimizer_bytes //= world_size
            masters = 4 * trainable // world_size  # beside the parameters, in fp32 too
            compute = compute_bytes * parameters
            gradient_bytes = compute_bytes * trainable
            if strategy.stage >= 2:
                gradient_bytes //= world_size
            if strategy.stage == 3:
                compute //= world_size
            parameter_bytes = compute + masters
            if strategy.offload.optimizer != "none":
                offloaded += optimizer_bytes + masters
            if strategy.offload.parameters != "none":
                offloaded += compute
    activation_bytes = activation_elements * micro_batch_size * compute_bytes
    if job.training.activation_checkpointing:
        activation_bytes //= 4  # block inputs and one block's inside; the share depends on the family
    return MemoryEstimate(
        parameters=parameter_bytes,
        gradients=gradient_bytes,
        optimizer=optimizer_bytes,
        activations=activation_bytes,
        offloaded=offloaded,
    )
