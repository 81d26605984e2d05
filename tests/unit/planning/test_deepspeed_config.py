"""What a job means to DeepSpeed, and which raw keys are let through."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.planning.deepspeed_config import deepspeed_config, describe_choices
from orchestrator.spec.job import JobSpec


def job(strategy: dict[str, Any], **training: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "a",
            "model": {"family": "mlp", "in_features": 2, "outputs": 2},
            "data": {"train": {"kind": "builtin", "name": "iris"}},
            "training": {"max_steps": 1, **training},
            "strategy": {"kind": "zero", **strategy},
        }
    )


def config(
    raw: dict[str, Any] | None = None, *, stage: int = 2, parameters: int = 1001, **training: Any
) -> Any:
    return deepspeed_config(
        job({"stage": stage, "deepspeed": raw or {}}, **training),
        world_size=2,
        micro_batch_size=4,
        accumulation_steps=3,
        parameters=parameters,
    )


def test_the_whole_config_of_a_small_job() -> None:
    assert config() == {
        "train_batch_size": 24,
        "train_micro_batch_size_per_gpu": 4,
        "gradient_accumulation_steps": 3,
        "gradient_clipping": 1.0,
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "steps_per_print": 1_000_000_000,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": 2,
            "contiguous_gradients": True,
            "overlap_comm": False,
            "reduce_bucket_size": 1002,
            "allgather_bucket_size": 1002,
            "stage3_prefetch_bucket_size": 1002,
            "offload_optimizer": {"device": "none", "pin_memory": False},
            "offload_param": {"device": "none", "pin_memory": False},
        },
    }


@pytest.mark.parametrize(("group", "size"), [(None, 1), (2, 2), (4, 1)])
def test_a_group_smaller_than_all_workers_keeps_a_second_copy(group: int | None, size: int) -> None:
    made = deepspeed_config(
        job({"stage": 3, "shard_group": group, "quantized_weights": True}),
        world_size=4,
        micro_batch_size=4,
        accumulation_steps=3,
        parameters=1000,
    )["zero_optimization"]
    assert made["zero_hpz_partition_size"] == size
    assert (made["zero_quantized_weights"], made["zero_quantized_gradients"]) == (True, False)


def test_a_raw_key_that_has_a_field_of_its_own_is_refused() -> None:
    with pytest.raises(SpecError, match="the job file decides 1"):
        config({"zero_optimization": {"zero_hpz_partition_size": 4}}, stage=3)


def test_stage_3_keeps_its_bucket_to_a_share() -> None:
    made = config(stage=3, parameters=10**9)["zero_optimization"]
    assert made["reduce_bucket_size"] == 10**9 // 32
    assert config(stage=3, parameters=3 * 10**6)["zero_optimization"]["reduce_bucket_size"] == 10**6


def test_buckets_are_no_larger_than_needed() -> None:
    assert config(parameters=10**9)["zero_optimization"]["reduce_bucket_size"] == 50_000_000
    assert "buckets of 1002 elements (4.01KB in fp32)" in describe_choices(config())


def test_raw_keys_win_over_what_was_chosen() -> None:
    raw = {
        "zero_optimization": {"reduce_bucket_size": 7, "round_robin_gradients": True},
        "bf16": {"immediate_grad_update": True},
    }
    made = config(raw)
    assert made["zero_optimization"]["reduce_bucket_size"] == 7
    assert made["zero_optimization"]["round_robin_gradients"] is True
    assert made["bf16"] == {"enabled": False, "immediate_grad_update": True}


@pytest.mark.parametrize("gpus", [0, 1])
def test_what_is_offloaded_from_a_gpu_lies_in_pinned_memory(gpus: int) -> None:
    offloading = job({"stage": 3, "offload": {"optimizer": "cpu", "parameters": "cpu"}})
    scaling = offloading.scaling.model_copy(update={"gpus_per_worker": gpus})
    made = deepspeed_config(
        offloading.model_copy(update={"scaling": scaling}),
        world_size=2,
        micro_batch_size=4,
        accumulation_steps=3,
        parameters=1001,
    )["zero_optimization"]
    pinned = {"device": "cpu", "pin_memory": bool(gpus)}
    assert made["offload_optimizer"] == made["offload_param"] == pinned


def test_raw_keys_may_repeat_what_the_job_file_says() -> None:
    raw = {"gradient_clipping": 1.0, "zero_optimization": {"stage": 2}, "train_batch_size": "auto"}
    assert config(raw) == config()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage is 3, but the job file decides 2"),
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5, but the job file decides 1.0"),
        ({"train_batch_size": 1}, "train_batch_size is 1, but the job file decides 24"),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps is 4, but the job file decides 3"),
        ({"bf16": {"enabled": True}}, "bf16.enabled is True, but the job file decides False"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "offload_optimizer.device is 'cpu'",
        ),
        ({"zero_optimization": 2}, "zero_optimization: must be a section"),
        ({"optimizer": {"type": "Adam"}}, "optimizer: this is decided by training.optimizer"),
        ({"scheduler": {}}, "scheduler: this is decided by training.schedule"),
        ({"zero_optimisation": {}}, "did you mean 'zero_optimization'?"),
        ({"xyz": 1}, "strategy.deepspeed.xyz: no such section"),
    ],
)
def test_a_contradiction_is_an_error(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as raised:
        config(raw)
    assert message in str(raised.value)


def test_deepspeed_takes_every_key_that_is_made() -> None:
    """DeepSpeed ignores unknown top-level keys silently, and refuses unknown ones of this section."""
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    for stage in (1, 2, 3):
        made = config(stage=stage)["zero_optimization"]
        assert DeepSpeedZeroConfig(**made).stage == stage
