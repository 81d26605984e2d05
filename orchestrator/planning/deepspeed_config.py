"""The DeepSpeed config that a job means, and the check of what a person adds to it under ``strategy.deepspeed``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.planning.plan import ResolvedJob
from orchestrator.registry import suggest
from orchestrator.section import format_bytes
from orchestrator.spec.strategy import ZeroStrategy

Config = dict[str, Any]

_BUCKET_ELEMENTS = 50_000_000
"""DeepSpeed's own default of 500 million takes 2 GB in fp32, whatever the model's size."""
_BUCKET_WORTH_DIVIDING = 1_000_000
"""Stage 3 allocates its bucket whole and for good: above this it is kept to some hundredths of a worker's state."""

_PASSED_ON = frozenset(
    [
        "communication_data_type",
        "prescale_gradients",
        "gradient_predivide_factor",
        "sparse_gradients",
        "steps_per_print",
        "wall_clock_breakdown",
        "memory_breakdown",
        "dump_state",
        "zero_optimization",
        "bf16",
        "fp16",
        "data_types",
        "aio",
        "comms_logger",
        "flops_profiler",
        "timers",
        "disable_python_gc",
        "graph_harvesting",
        "seq_parallel_communication_data_type",
    ]
)
"""Top-level sections that a person may add to; DeepSpeed ignores unknown ones silently, so all others are refused."""

_DECIDED_ELSEWHERE = {
    "optimizer": "training.optimizer",
    "scheduler": "training.schedule",
    "activation_checkpointing": "training.recomputation",
    "compile": "training.compile",
    "amp": "training.precision",
    "torch_autocast": "training.precision",
    "checkpoint": "checkpoint",
    "nebula": "checkpoint",
    "zero_allow_untested_optimizer": "training.optimizer",
    "zero_force_ds_cpu_optimizer": "training.optimizer",
    "gradient_allreduce_op": "the engine",
    "managed_gradient_accumulation": "the engine",
    "tensorboard": "tracking",
    "wandb": "tracking",
    "csv_monitor": "tracking",
    "comet": "tracking",
    "seed": "training.seed",
}
"""Top-level sections whose subject the job file has a place for."""


def deepspeed_config(
    job: ResolvedJob, *, world_size: int, micro_batch_size: int, accumulation_steps: int, parameters: int
) -> Config:
    """The whole config.

    Args:
        job: with strategy zero.
        world_size: number of workers.
        micro_batch_size: samples of one forward on one worker.
        accumulation_steps: forwards of one worker in one step.
        parameters: of the model; buckets need not be larger.

    Raises:
        SpecError: a raw key contradicts the job file, or is one that DeepSpeed would ignore.
    """
    strategy = job.strategy
    assert isinstance(strategy, ZeroStrategy)
    decided = _decided(
        job, world_size=world_size, micro_batch_size=micro_batch_size, accumulation_steps=accumulation_steps
    )
    _check_sections(strategy.deepspeed)
    _check_leaves(strategy.deepspeed, decided, "")
    chosen = _merged(_chosen(job, world_size, parameters), strategy.deepspeed)
    return _merged(chosen, decided)


def describe_choices(config: Config) -> str:
    """What was chosen that the job file does not say, as a sentence for the plan's notes."""
    zero = config["zero_optimization"]
    elements = zero["reduce_bucket_size"]
    return (
        f"DeepSpeed: buckets of {elements} elements ({format_bytes(4 * elements)} in fp32),"
        f" contiguous gradients {_on(zero['contiguous_gradients'])}, overlapped communication"
        f" {_on(zero['overlap_comm'])}"
    )


def _on(flag: bool) -> str:
    return "on" if flag else "off"


def _decided(job: ResolvedJob, *, world_size: int, micro_batch_size: int, accumulation_steps: int) -> Config:
    """What follows from the job file."""
    strategy, training = job.strategy, job.training
    assert isinstance(strategy, ZeroStrategy)
    zero: Config = {"stage": strategy.stage}
    if strategy.stage == 3:
        assert strategy.shard_group != "node", "a plan holds the number"
        zero["zero_hpz_partition_size"] = _second_copy(strategy.shard_group, world_size)
        zero["zero_quantized_weights"] = strategy.quantized_weights
        zero["zero_quantized_gradients"] = strategy.quantized_gradients
    for section, place in (
        ("offload_optimizer", strategy.offload.optimizer),
        ("offload_param", strategy.offload.parameters),
    ):
        zero[section] = {"device": place}
        if place == "nvme":
            zero[section]["nvme_path"] = strategy.offload.nvme_path
    decided: Config = {
        "train_batch_size": micro_batch_size * accumulation_steps * world_size,
        "train_micro_batch_size_per_gpu": micro_batch_size,
        "gradient_accumulation_steps": accumulation_steps,
        "gradient_clipping": training.clip_grad_norm or 0.0,
        "bf16": {"enabled": training.precision == "bf16"},
        "fp16": {"enabled": training.precision == "fp16"},
        "zero_optimization": zero,
    }
    if training.precision == "bf16":
        decided["bf16"]["check_grad_overflow"] = True
    return decided


def _second_copy(group: int | None, world_size: int) -> int:
    """Workers of a second copy of the parameters; 1: there is none, as the first one serves all."""
    return 1 if group is None or group == world_size else group


def _chosen(job: ResolvedJob, world_size: int, parameters: int) -> Config:
    """What the job file leaves open. A person's raw keys win over these."""
    on_gpu = bool(job.scaling.gpus_per_worker)
    bucket = min(parameters, _BUCKET_ELEMENTS)
    if job.strategy.kind == "zero" and job.strategy.stage == 3:
        bucket = min(bucket, max(parameters // (16 * world_size), _BUCKET_WORTH_DIVIDING))
    bucket = max(2, bucket + bucket % 2)  # even, since DeepSpeed aligns to two elements
    return {
        "steps_per_print": 1_000_000_000,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "contiguous_gradients": True,
            "overlap_comm": on_gpu,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "stage3_prefetch_bucket_size": bucket,
            "offload_optimizer": {"pin_memory": on_gpu},
            "offload_param": {"pin_memory": on_gpu},
        },
    }


def _check_sections(raw: Mapping[str, Any]) -> None:
    known = _PASSED_ON | {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    }
    for key in raw:
        if key in _DECIDED_ELSEWHERE:
            raise SpecError(
                f"strategy.deepspeed.{key}: this is decided by {_DECIDED_ELSEWHERE[key]}; take it out"
            )
        if key not in known:
            raise SpecError(
                f"strategy.deepspeed.{key}: no such section that trainwright passes on{suggest(key, known)}"
            )


def _check_leaves(raw: Mapping[str, Any], decided: Mapping[str, Any], path: str) -> None:
    for key, value in raw.items():
        if key not in decided or value == "auto":
            continue
        here = f"{path}{key}"
        if isinstance(decided[key], Mapping):
            if not isinstance(value, Mapping):
                raise SpecError(f"strategy.deepspeed.{here}: must be a section, not {value!r}")
            _check_leaves(value, decided[key], f"{here}.")
        elif value != decided[key]:
            raise SpecError(
                f"strategy.deepspeed.{here} is {value!r}, but the job file decides {decided[key]!r};"
                " take it out or change the job file"
            )


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> Config:
    """``low`` with ``high`` laid over it, section by section; ``auto`` says nothing."""
    merged = dict(low)
    for key, value in high.items():
        if isinstance(value, Mapping):
            under = merged.get(key)
            merged[key] = _merged(under if isinstance(under, Mapping) else {}, value)
        elif value != "auto":
            merged[key] = value
    return merged
