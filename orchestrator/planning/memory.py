"""Bytes on one worker, from counts. The formulas are ZeRO's (Rajbhandari et al. 2020, arXiv:1910.02054, section 3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.planning.plan import MemoryEstimate, ResolvedJob
from orchestrator.spec.strategy import FsdpStrategy, ZeroStrategy
from orchestrator.spec.training import OptimizerSpec

WAITING_PROCESS_BYTES = 470_000_000
"""Resident memory of a process that waits for a restart with torch loaded, measured; what it shares with others counts in each."""
TRAINED_SECONDS_HERE = 30.0
"""How long workers of this machine train before processes wait for their restart: a short run shares its cores with none."""

_DEEPSPEED_BYTES = 52_000_000
"""More of them with DeepSpeed loaded."""


def waiting_process_bytes(job: ResolvedJob) -> int:
    """Resident memory of a process that waits for a restart of a job's worker."""
    return WAITING_PROCESS_BYTES + (_DEEPSPEED_BYTES if job.strategy.kind == "zero" else 0)


_MOMENTS = {"adamw": 2, "sgd": 1, "lion": 1, "adafactor": 1}
"""fp32 tensors of the parameter's size that an optimizer keeps (adafactor: at most)."""

_KEPT = {"none": 1, "selective": 2, "blocks": 4}
"""What of the activations is kept, as a divisor: block inputs and one block's inside at least; the share depends on the family."""


@dataclass(frozen=True)
class _State:
    """Bytes of one worker that last from step to step."""

    parameters: int
    gradients: int
    optimizer: int
    averages: int
    offloaded: int = 0


def estimate_memory(
    job: ResolvedJob,
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
    moments = 4 * _moments(job.training.optimizer) * trainable
    whole = _State(4 * parameters, 4 * trainable, moments, 4 * trainable if job.training.ema else 0)
    state = whole
    if strategy.kind == "fsdp":
        state = _sharded(strategy, whole, world_size)
    elif strategy.kind == "zero":
        state = _partitioned(strategy, whole, world_size, compute_bytes)
    activations = activation_elements * micro_batch_size * compute_bytes
    activations //= _KEPT[job.training.recomputation]
    return MemoryEstimate(
        parameters=state.parameters,
        gradients=state.gradients,
        optimizer=state.optimizer,
        averages=state.averages,
        activations=activations,
        offloaded=state.offloaded,
    )


def _moments(optimizer: OptimizerSpec) -> int:
    if optimizer.tried is not None:
        return len(optimizer.tried.moments)
    return 0 if optimizer.kind == "sgd" and optimizer.momentum == 0 else _MOMENTS[optimizer.kind]


def _sharded(strategy: FsdpStrategy, whole: _State, world_size: int) -> _State:
    """FSDP: everything is divided among the workers that share one copy."""
    sharers = _number(strategy.shard_group) or world_size
    sizes = (whole.parameters, whole.gradients, whole.optimizer, whole.averages)
    parameters, gradients, optimizer, averages = (size // sharers for size in sizes)
    sharded = _State(parameters, gradients, optimizer, averages)
    held = parameters + gradients + optimizer + averages
    return replace(sharded, offloaded=held if strategy.offload else 0)


def _number(shard_group: int | Literal["node"] | None) -> int | None:
    assert shard_group != "node", "a plan holds the number"
    return shard_group


def _partitioned(strategy: ZeroStrategy, whole: _State, world_size: int, compute_bytes: int) -> _State:
    """ZeRO: masters and moments are divided, gradients from stage 2 on, what is computed with in stage 3."""
    masters = whole.gradients // world_size  # fp32 of what is trained, beside the parameters, in fp32 too
    computed = compute_bytes * whole.parameters // 4
    gradients = compute_bytes * whole.gradients // 4
    optimizer, averages = whole.optimizer // world_size, whole.averages // world_size
    if strategy.stage >= 2:
        gradients //= world_size
    if strategy.stage == 3:
        sharers = _number(strategy.shard_group) or world_size
        second_copy = 0 if sharers == world_size else computed // sharers
        computed = computed // world_size + second_copy
    offloaded = 0
    if strategy.offload.optimizer != "none":
        offloaded += optimizer + averages + masters
    if strategy.offload.parameters != "none":
        offloaded += computed
    return _State(computed + masters, gradients, optimizer, averages, offloaded)
