"""What the tests of this folder run on: a GPU where there is one, else the CPU, so that all but the device is proven there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from family_runs import family_plan

from orchestrator.planning.plan import Plan

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
PRECISIONS = ("fp32", "bf16", "fp16") if HAS_GPU else ("fp32", "bf16")
STRATEGIES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "zero1": {"kind": "zero", "stage": 1},
    "zero2": {"kind": "zero", "stage": 2},
    "zero3": {"kind": "zero", "stage": 3},
}
OPTIMIZER = {"kind": "adamw", "learning_rate": 0.01}


def on_gpus(plan: Plan) -> Plan:
    """The plan with a GPU for each worker, where there is one."""
    scaling = plan.job.scaling.model_copy(update={"gpus_per_worker": int(HAS_GPU)})
    return plan.model_copy(update={"job": plan.job.model_copy(update={"scaling": scaling})})


def planned(strategy: str, world_size: int = 1, *, more: Mapping[str, Any] = {}, **training: Any) -> Plan:
    """A family's plan for this device."""
    section = {**STRATEGIES[strategy], **more}
    return on_gpus(family_plan(world_size, section, OPTIMIZER, **training))


def case(*values: Any, part_of_default: bool) -> Any:
    """A parameter set: without a GPU most are left to ``make whole-runs``, which has them too, or to a longer run."""
    slow = not HAS_GPU and not part_of_default
    return pytest.param(*values, marks=pytest.mark.slow if slow else ())
