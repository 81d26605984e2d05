"""Bytes of model and optimizer state that each rank holds (live tensors, not resident memory) against the formulas.

Run: ``python benchmarks/state_memory.py`` (a minute or two on two cores). The most that is held after
either backward of a step of two micro-batches, when gradients are there too and activations are gone; DeepSpeed's
communication buckets are kept small and counted with the rest.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import torch
from engine_bench import WIDTH, batches, model_and_objective, plan_for

from orchestrator import strategies
from orchestrator.strategies.ranks import Ranks

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


def measure(strategy: dict[str, Any], precision: str) -> tuple[int, int]:
    """(parameters, live bytes of this rank) of a second step, when moments are there."""
    import torch.distributed as dist

    before = live_bytes()
    modules, objective = model_and_objective()
    parameters = sum(p.numel() for p in modules["model"].parameters())
    plan = plan_for(
        strategy, dist.get_world_size(), parameters=parameters, precision=precision, accumulation=2
    )
    engine = strategies.prepare(plan, modules, objective, torch.device("cpu"))
    del modules
    held = 0
    for step in range(2):
        for index, batch in enumerate(batches(2)):
            with engine.micro_step("model", last=index == 1):
                with engine.autocast():
                    loss = objective.loss("model", engine.modules, batch).loss
                engine.backward("model", loss / 100)
            del loss, batch
            if step == 1:
                held = max(held, live_bytes() - before)
        engine.step("model", 1.0, None)
    engine.close()
    return parameters, held


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
