"""The bytes that a worker is said to send in a step are those that the real engine gives to its process group."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_leaves

from orchestrator.fitting import simulate
from orchestrator.models.configs import CausalLmConfig, GptConfig
from orchestrator.models.sizes import count
from orchestrator.planning.plan import Plan
from orchestrator.planning.traffic import Traffic, traffic
from orchestrator.strategies.simulated import Zeros
from orchestrator.testing import small_plan

MODEL, OBJECTIVE = GptConfig(layers=4, heads=4, width=64, context=16, vocabulary=64), CausalLmConfig()
WORKERS, NODE, MICROS = 16, 8, 2
STEPS = 2
"""That a simulation takes."""
PASSES = {"_allgather_base_": 1, "_reduce_scatter_base_": 1, "allreduce_": 2}


class Counting(Zeros):
    """Counts the bytes that each call of a group sends, as a ring does, by the number of its workers."""

    sent: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        passes = PASSES.get(func.overloadpacket.__name__, 0) if func.namespace == "c10d" else 0
        if passes:
            size = max(x.numel() * x.element_size() for x in tree_leaves(args) if isinstance(x, Tensor))
            boxed = next(one for one in args if isinstance(one, torch.ScriptObject))
            workers = dist.ProcessGroup.unbox(boxed).size()
            Counting.sent[workers] += round(passes * size * (workers - 1) / workers)
        return super().__torch_dispatch__(func, types, args, kwargs)


def plan_of(strategy: dict[str, Any]) -> Plan:
    plan = small_plan(
        WORKERS,
        strategy=strategy,
        training={"global_batch_size": WORKERS * MICROS, "precision": "bf16"},
        micro_batch_size=1,
        parameters=count(MODEL, OBJECTIVE).parameters,
    )
    job = plan.job.model_copy(update={"model": MODEL, "objective": OBJECTIVE})
    return plan.model_copy(update={"job": job, "trainable_parameters": plan.parameters})


def counted(strategy: dict[str, Any]) -> dict[int, int]:
    """Workers of a group -> bytes that one of them sends in a step; in a process of its own."""
    simulate.Zeros = Counting  # type: ignore[misc, assignment, attr-defined]
    simulate.simulate(plan_of(strategy))
    return {workers: sent // STEPS for workers, sent in Counting.sent.items()}


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[ProcessPoolExecutor]:
    """A process for each simulation, which must not be in a group, and after which DeepSpeed leaves torch changed."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # for the import that all share
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["orchestrator.fitting.simulate", "deepspeed"])
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        yield pool


@pytest.mark.parametrize(
    ("strategy", "rings"),
    [
        ({"kind": "fsdp"}, {WORKERS: 16}),
        ({"kind": "fsdp", "reshard_after_forward": False}, {WORKERS: 12}),
        ({"kind": "fsdp", "reduce_dtype": "bf16"}, {WORKERS: 12}),
        ({"kind": "fsdp", "shard_group": NODE}, {NODE: 16, WORKERS // NODE: 2}),
        ({"kind": "zero", "stage": 1}, {WORKERS: 6}),
        ({"kind": "zero", "stage": 2}, {WORKERS: 10}),
        ({"kind": "zero", "stage": 3}, {WORKERS: 12}),
        ({"kind": "zero", "stage": 3, "shard_group": NODE}, {WORKERS: 6, NODE: 6}),
    ],
)
def test_a_worker_sends_what_is_counted(
    strategy: dict[str, Any], rings: dict[int, int], elsewhere: ProcessPoolExecutor
) -> None:
    """``rings``: workers of a ring -> bytes of each parameter that go through it in a step of two micro-batches."""
    parameters = plan_of(strategy).parameters
    expected = {n: each * parameters * (n - 1) / n for n, each in rings.items()}
    planned = traffic(plan_of(strategy), node=NODE)
    assert planned.total == pytest.approx(sum(expected.values()), rel=0.01)
    found = elsewhere.submit(counted, strategy).result()
    stays = 0.4 if strategy.get("stage") == 3 else 0.05  # gathered, where it is small or outside of blocks
    for workers, sent in expected.items():
        assert (1 - stays) * sent < found[workers] < 1.05 * sent, workers


@pytest.mark.parametrize(
    ("strategy", "workers", "between"),
    [
        ({"kind": "fsdp"}, NODE, 0),
        ({"kind": "fsdp"}, 2 * NODE, 16 / NODE * 15 / 16),
        ({"kind": "fsdp", "shard_group": NODE}, 4 * NODE, 2 * 2 * 4 / NODE * 3 / 4),
        (
            {"kind": "fsdp", "shard_group": 4},
            2 * NODE,
            2 * 2 * 4 / 4 * 3 / 4 / 2,
        ),  # two of four copies on a node
        ({"kind": "zero", "stage": 3, "shard_group": NODE}, 2 * NODE, 6 / NODE * 15 / 16),
    ],
)
def test_what_leaves_a_node_is_told_apart(strategy: dict[str, Any], workers: int, between: float) -> None:
    plan = plan_of(strategy).model_copy(update={"world_size": workers})
    found = traffic(plan, node=NODE)
    assert found.between == pytest.approx(between * plan.parameters, rel=0.01)
    assert traffic(plan, node=workers) == Traffic(found.total, 0)
