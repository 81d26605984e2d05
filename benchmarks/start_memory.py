"""Resident memory of a rank from before its model is built to a prepared engine, and through loading a checkpoint.

Run: ``python benchmarks/start_memory.py`` (some minutes on two cores, 1.5 GB of disk). ``gpt`` of 98 million
parameters, assembled as a worker does it, each measurement on processes of its own. Memory is what the kernel counts,
above that of the same process once it has prepared a tiny model; of the ranks the one with most is shown.

The peak of a strategy that shards parameters must stay below 1.25 times the rank's share of the state plus the largest
block (the formulas of ``state_memory.py``); a row says MORE where it does not, or where what is held afterwards is more
than 1.1 times the share.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import torch
from state_memory import FORMULAS

from orchestrator.checkpoint import Checkpoints, newest_good
from orchestrator.models import build_modules
from orchestrator.models.configs import CausalLmConfig, GptConfig
from orchestrator.models.deferred import build_deferred
from orchestrator.planning.plan import Plan
from orchestrator.rank import assemble
from orchestrator.state import StateRange
from orchestrator.strategies.blocks import blocks_of
from orchestrator.strategies.materialize import release_freed_memory
from orchestrator.strategies.ranks import Ranks
from orchestrator.testing import small_plan

CONFIG = GptConfig(layers=12, heads=12, width=768, context=1024, vocabulary=16384)
KINDS: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    **{f"zero{stage}": {"kind": "zero", "stage": stage} for stage in (1, 2, 3)},
}
SHARDED = ("fsdp", "zero3")
PEAK, AFTER = 1.25, 1.1
PRELOADED = ("deepspeed", "orchestrator.rank", "orchestrator.strategies.zero")
COLUMNS = (
    "strategy",
    "precision",
    "ranks",
    "share MB",
    "peak of the build",
    "prepared",
    "peak of the load",
    "loaded",
    "largest peak",
)


@dataclass(frozen=True)
class Measured:
    """Bytes above those before the build."""

    build_peak: int
    prepared: int
    load_peak: int
    loaded: int


def plan_for(kind: str, precision: str, ranks: int) -> Plan:
    training = {"max_steps": 1, "global_batch_size": ranks, "precision": precision}
    plan = small_plan(ranks, strategy=KINDS[kind], training=training, parameters=sizes()[0])
    job = plan.job.model_copy(update={"model": CONFIG, "objective": CausalLmConfig()})
    return plan.model_copy(update={"job": job})


def sizes() -> tuple[int, int]:
    """Parameters of the model, and of its largest block; what is in no block counts as one."""
    (model,) = build_deferred(lambda: build_modules(CONFIG, CausalLmConfig()), 0)[0].values()
    whole = sum(parameter.numel() for parameter in model.parameters())
    blocks = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks_of(model)]
    return whole, max(*blocks, whole - sum(blocks))


def resident(field: str) -> int:
    """Bytes of this process, by the kernel's name: VmRSS now, VmHWM at the most since ``forget_peak``."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure(plan: Plan, folder: str) -> Measured:
    """On one rank of the group."""
    # libraries load parts of themselves, and ranks connect, when a first model is prepared
    small = plan.job.model_copy(update={"model": GptConfig(size="debug", vocabulary=64)})
    assemble(plan.model_copy(update={"job": small})).close()
    gc.collect()
    release_freed_memory()
    before = resident("VmRSS")
    forget_peak()
    rank = assemble(plan)
    build_peak, prepared = resident("VmHWM"), resident("VmRSS")
    forget_peak()
    saved = newest_good(folder)
    assert saved is not None
    rank.load(saved)
    load_peak, loaded = resident("VmHWM"), resident("VmRSS")
    rank.close()
    return Measured(build_peak - before, prepared - before, load_peak - before, loaded - before)


def saved_state() -> Iterator[StateRange]:
    """A state after one update, as any strategy would save it."""
    ((name, model),) = build_deferred(lambda: build_modules(CONFIG, CausalLmConfig()), 0)[0].items()
    for path, parameter in model.named_parameters():
        for kind in ("parameter", "exp_avg", "exp_avg_sq"):
            yield StateRange(
                kind, f"{name}/{path}", tuple(parameter.shape), 0, torch.zeros(parameter.numel())
            )


def main() -> None:
    parameters, block = sizes()
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder, attempt=1, rank=0, world_size=1)
        checkpoints.save(1, saved_state(), {"scalars": {"updates/model": 1}}, asynchronous=False)
        checkpoints.close()
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        for ranks in (1, 2, 4):
            for name, precision in FORMULAS:
                with Ranks(ranks, preload=PRELOADED) as pool:
                    of_ranks = pool.run(measure, plan_for(name, precision, ranks), folder)
                most = Measured(*(max(column) for column in zip(*map(_columns, of_ranks), strict=True)))
                share = FORMULAS[name, precision][1](ranks) * parameters
                allowed = PEAK * share + 4 * block
                peak = max(most.build_peak, most.load_peak)
                after = max(most.prepared, most.loaded)
                failed |= name in SHARDED and peak > allowed
                wrong = name in SHARDED and (peak > allowed or after > AFTER * share)
                shown = (share, *_columns(most), allowed)
                print(
                    f"| {name} | {precision} | {ranks} | {' | '.join(f'{v / 1e6:.0f}' for v in shown)} |{' MORE' if wrong else ''}",
                    flush=True,
                )
    print(f"\n{parameters} parameters, {block} in the largest block")
    if failed:
        sys.exit("a strategy that shards parameters needed more than it may")


def _columns(measured: Measured) -> tuple[int, int, int, int]:
    return measured.build_peak, measured.prepared, measured.load_peak, measured.loaded


if __name__ == "__main__":
    main()
