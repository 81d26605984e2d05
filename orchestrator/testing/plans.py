"""A plan without a job file, a data source or a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.planning.plan import MemoryEstimate, Plan, ResolvedJob


def small_plan(
    world_size: int = 1,
    *,
    training: Mapping[str, Any] | None = None,
    strategy: Mapping[str, Any] | None = None,
    micro_batch_size: int | None = None,
    **fields: Any,
) -> Plan:
    """A plan to hand to ``loop.train`` and ``strategies.prepare``: each step is logged, nothing else is done between.

    Its model and data stand for nothing: the loop trains the modules, objective and steps that it is given.

    Args:
        world_size: ranks.
        training: the job's section; default: 4 steps of 8 samples, each of them logged.
        strategy: the job's section; default: DDP.
        micro_batch_size: samples of one forward. Default: the rank's whole share of the global batch.
        fields: of ``Plan``, as ``evaluate_every=2``.

    """
    job = ResolvedJob.model_validate(
        {
            "name": "small",
            "model": {"family": "mlp", "in_features": 1, "outputs": 2},
            "objective": {"kind": "classification"},
            "data": {"train": {"kind": "builtin", "name": "digits"}},
            "training": {"max_steps": 4, "global_batch_size": 8, "log_every": 1, **(training or {})},
            "strategy": strategy or {"kind": "ddp"},
            "scaling": {"workers": world_size},
        }
    )
    assert job.training.max_steps is not None
    share = job.training.global_batch_size // world_size
    micro = micro_batch_size or share
    planned: dict[str, Any] = {
        "version": "0",
        "run_id": "small",
        "job": job,
        "base_dir": "/",
        "storage": "/nowhere",
        "cache": "/nowhere",
        "tracking_uri": "",
        "world_size": world_size,
        "micro_batch_size": micro,
        "accumulation_steps": share // micro,
        "total_steps": job.training.max_steps,
        "train_samples": 0,
        "eval_samples": 0,
        "evaluate_every": 0,
        "sample_every": 0,
        "checkpoint_every": job.training.max_steps,
        "parameters": 1000,
        "trainable_parameters": 1000,
        "flops_per_sample": 0,
        "memory": MemoryEstimate(parameters=0, gradients=0, optimizer=0, activations=0),
    }
    return Plan(**{**planned, **fields})
