"""Bytes of model and optimizer state that each rank holds (live tensors, not resident memory) against the formulas.

Run: ``python benchmarks/state_memory.py`` (a minute or two on two cores). The most that is held after
either backward of a step of two micro-batches, when gradients are there too and activations are gone; DeepSpeed's
communication buckets are kept small and counted with the rest.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import torch
from engine_bench import BATCH, WIDTH, Objective, batches, model_and_objective, plan_for
from torch import nn

from orchestrator import loop, strategies
from orchestrator.models.base import Sums
from orchestrator.strategies.ranks import Ranks
from orchestrator.testing import RecordingSurroundings, steps_of

SMALL_BUCKET = 20_000
"""Elements, so that the state is what is measured."""

Formula = Callable[[float], float]
FORMULAS: dict[tuple[str, str], tuple[str, Formula]] = {
    ("ddp", "fp32"): ("16Ψ", lambda n: 16),
    ("fsdp", "fp32"): ("16Ψ/N", lambda n: 16 / n),
    ("zero1", "fp32"): ("8Ψ + 12Ψ/N", lambda n: 8 + 12 / n),
    ("zero2", "fp32"): ("4Ψ + 16Ψ/N", lambda n: 4 + 16 / n),
    ("zero3", "fp32"): ("20Ψ/N", lambda n: 20 / n),
    ("ddp", "bf16"): ("16Ψ", lambda n: 16),
    ("fsdp", "bf16"): ("16Ψ/N", lambda n: 16 / n),
    ("zero1", "bf16"): ("4Ψ + 12Ψ/N", lambda n: 4 + 12 / n),
    ("zero2", "bf16"): ("2Ψ + 14Ψ/N", lambda n: 2 + 14 / n),
    ("zero3", "bf16"): ("16Ψ/N", lambda n: 16 / n),
}
"""(strategy, precision) -> bytes per parameter, as text and as a function of the number of ranks. The bf16 forms are
those of Rajbhandari et al. 2020, section 3; in fp32 DeepSpeed keeps masters beside the parameters all the same."""


def live_bytes() -> int:
    """Bytes of all storages that tensors refer to, each once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        # type() before isinstance: lazy modules run code on attribute access
        if issubclass(type(thing), torch.Tensor) and not thing.is_meta:
            local = thing.to_local() if hasattr(thing, "to_local") else thing
            for tensor in (local, local.grad if local.is_leaf else None):
                if tensor is not None:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


class Watched(Objective):
    """Notes, in the second step, what is held after its first backward: when the second forward is about to begin."""

    def __init__(self, note: Callable[[], None]) -> None:
        self._note, self._forwards = note, 0

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Mapping[str, torch.Tensor]) -> Sums:
        self._forwards += 1
        if self._forwards == 4:
            self._note()
        return super().loss(phase, modules, batch)


class Watching(RecordingSurroundings):
    """Notes what is held when all gradients are there."""

    def __init__(self, note: Callable[[], None]) -> None:
        super().__init__()
        self._note, self._updates = note, 0

    def before_update(self) -> None:
        self._updates += 1
        if self._updates == 2:
            self._note()


def measure(strategy: dict[str, Any], precision: str) -> tuple[int, int]:
    """(parameters, live bytes of this rank) of a second step, when moments are there."""
    import torch.distributed as dist

    world_size = dist.get_world_size()
    global_batches = list(batches(2, 2 * BATCH * world_size))
    before = live_bytes()
    modules = model_and_objective()[0]
    parameters = sum(p.numel() for p in modules["model"].parameters())
    plan = plan_for(strategy, world_size, steps=2, parameters=parameters, precision=precision, accumulation=2)
    held: list[int] = []

    def note() -> None:
        held.append(live_bytes() - before)

    objective = Watched(note)
    engine = strategies.prepare(plan, modules, objective, torch.device("cpu"))
    del modules
    loop.train(plan, engine, objective, steps_of(global_batches, plan), Watching(note), 0)
    engine.close()
    assert len(held) == 2
    return parameters, max(held)


def main() -> None:
    buckets = {"reduce_bucket_size": SMALL_BUCKET, "allgather_bucket_size": SMALL_BUCKET}
    raw = {"zero_optimization": {**buckets, "stage3_prefetch_bucket_size": SMALL_BUCKET}}
    kinds: dict[str, dict[str, Any]] = {
        "ddp": {"kind": "ddp"},
        "fsdp": {"kind": "fsdp"},
        **{f"zero{stage}": {"kind": "zero", "stage": stage, "deepspeed": raw} for stage in (1, 2, 3)},
    }
    worst = 0.0
    print(
        f"| strategy | precision | ranks | formula | expected MB | measured MB | difference |\n|{'---|' * 7}"
    )
    for ranks in (1, 2, 4):
        with Ranks(ranks, preload=["deepspeed"]) as pool:
            for (name, precision), (text, formula) in FORMULAS.items():
                parameters, held = max(pool.run(measure, kinds[name], precision), key=lambda pair: pair[1])
                expected = formula(ranks) * parameters
                off = held / expected - 1
                worst = max(worst, abs(off))
                print(
                    f"| {name} | {precision} | {ranks} | {text} | {expected / 1e6:.1f} | {held / 1e6:.1f} | {off:+.1%} |",
                    flush=True,
                )
    print(f"\nΨ = {parameters} parameters (width {WIDTH}); largest difference {worst:.1%}")
    if worst > 0.05:
        sys.exit("a measured value is more than 5% from its formula")


if __name__ == "__main__":
    main()
