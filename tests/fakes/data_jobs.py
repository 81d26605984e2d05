"""Jobs and plans for tests of data: small, and with nothing but what reading needs."""

from __future__ import annotations

from typing import Any

from orchestrator.planning.plan import DataFacts, MemoryEstimate, Plan
from orchestrator.planning.resolve import resolve
from orchestrator.spec.job import JobSpec


def job_of(
    data: dict[str, Any], *, batch: int = 8, family: str = "mlp", seed: int = 0, **more: Any
) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "data-test",
            "model": {"family": family},
            "data": {"reader": "worker", **data},
            "training": {"max_steps": 10, "global_batch_size": batch, "seed": seed},
            **more,
        }
    )


_ANY_SIZES = DataFacts(
    dims={
        name: 8
        for names in (
            "features channels image_size signal_length vocabulary",
            "series past horizon mask_token",
        )
        for name in names.split()
    },
    lists={"special_tokens": ()},
)
"""Reading needs a complete model, but asks for none of its sizes."""
_OUTPUTS = 1000
"""Where the job gives none: more than any label here."""


def plan_of(job: JobSpec, cache: Any, *, workers: int = 1, steps: int = 10, micro: int | None = None) -> Plan:
    share = job.training.global_batch_size // workers
    outputs = getattr(job.model, "outputs", None) or _OUTPUTS
    sizes = _ANY_SIZES.model_copy(update={"dims": {**_ANY_SIZES.dims, "outputs": outputs}})
    return Plan(
        version="0",
        run_id="data-test-abcdefgh",
        job=resolve(job, sizes),
        base_dir=str(cache),
        storage=str(cache / "run"),
        cache=str(cache / "cache"),
        tracking_uri="",
        world_size=workers,
        micro_batch_size=micro or share,
        accumulation_steps=share // (micro or share),
        total_steps=steps,
        train_samples=0,
        eval_samples=0,
        evaluate_every=0,
        sample_every=1,
        checkpoint_every=1,
        parameters=0,
        trainable_parameters=0,
        flops_per_sample=0,
        memory=MemoryEstimate(parameters=0, gradients=0, optimizer=0, activations=0),
    )
