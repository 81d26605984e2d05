"""Step time through our loop and engines against the same library used bare, interleaved in one run.

Run: ``python benchmarks/engine_speed.py [ranks]`` (a few minutes on two cores). Each round takes a few steps of each
in turn and gives one ratio; the table has the median ratio and the standard error of it, and the same of the bare loop
against itself. 1.00 is no cost.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import torch
import torch.nn.functional as F
from engine_bench import BATCH, CLIP, Block, batches, model_and_objective, plan_for
from torch import nn

from orchestrator import loop, strategies
from orchestrator.models.base import Batch
from orchestrator.planning.deepspeed_config import deepspeed_config
from orchestrator.strategies.optimizers import build_optimizer, parameter_groups
from orchestrator.strategies.ranks import Ranks
from orchestrator.strategies.zero import import_deepspeed
from orchestrator.testing import RecordingSurroundings, steps_of

ROUNDS, STEPS = 40, 2
KINDS: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "zero1": {"kind": "zero", "stage": 1},
    "zero2": {"kind": "zero", "stage": 2},
    "zero3": {"kind": "zero", "stage": 3},
}
Step = Callable[[dict[str, torch.Tensor]], None]


def bare(plan: Any) -> Step:
    """As the library's own examples do it."""
    module: nn.Module = model_and_objective()[0]["model"]
    spec = plan.job.training.optimizer

    def optimizer_over(module: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(parameter_groups(module.named_parameters(), spec), spec, torch.device("cpu"))

    if plan.job.strategy.kind == "zero":
        deepspeed = import_deepspeed(torch.device("cpu"), plan.world_size)
        config = deepspeed_config(
            plan.job,
            world_size=plan.world_size,
            micro_batch_size=BATCH,
            accumulation_steps=1,
            parameters=plan.parameters,
        )
        if plan.job.strategy.stage == 3:
            config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer_over(module), config=config, dist_init_required=False
        )

        def zero_step(batch: dict[str, torch.Tensor]) -> None:
            engine.backward(F.cross_entropy(engine(batch["x"]), batch["y"]))
            engine.step()

        return zero_step

    if plan.job.strategy.kind == "fsdp":
        from torch.distributed.fsdp import fully_shard

        for part in module.modules():
            if isinstance(part, Block):
                fully_shard(part)
        fully_shard(module)
        trained: nn.Module = module
    else:
        trained = nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)
    optimizer = optimizer_over(module)

    def torch_step(batch: dict[str, torch.Tensor]) -> None:
        F.cross_entropy(trained(batch["x"]), batch["y"]).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=plan.job.strategy.kind == "fsdp")

    return torch_step


def median_and_error(ratios: list[float]) -> tuple[float, float]:
    """The median, and its standard error by the spread of the middle half (1.25 sigma / sqrt(n))."""
    low, _, high = statistics.quantiles(ratios, n=4)
    return statistics.median(ratios), 1.25 * (high - low) / 1.35 / len(ratios) ** 0.5


def compare(
    strategy: dict[str, Any], parameters: int
) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """(seconds of a bare step, ours / bare, bare / bare) on this rank."""
    import torch.distributed as dist

    rank, world_size = dist.get_rank(), dist.get_world_size()
    turns = ROUNDS + 2  # the first two warm up
    plan = plan_for(strategy, world_size, steps=turns * STEPS + 1, parameters=parameters)
    peers = {"bare": bare(plan), "again": bare(plan)}
    modules, objective = model_and_objective()
    engine = strategies.prepare(plan, modules, objective, torch.device("cpu"))
    names = ["bare", "ours", "again"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    global_batches = list(batches(STEPS, BATCH * world_size))
    shares = [
        {name: tensor[rank * BATCH : (rank + 1) * BATCH] for name, tensor in batch.items()}
        for batch in global_batches
    ]

    def ours_between_theirs() -> Iterator[Batch]:
        """What the loop trains on; the peers take their turns while it waits for its next batch."""
        for turn in range(turns):
            for name in names[turn % 3 :] + names[: turn % 3]:
                dist.barrier()
                begun = time.perf_counter()
                if name == "ours":
                    yield from global_batches
                else:
                    for share in shares:
                        peers[name](share)
                if turn >= 2:
                    seconds[name].append((time.perf_counter() - begun) / STEPS)
        yield global_batches[0]  # a last step, which nobody times: at its end the run's last records are made

    steps = steps_of(ours_between_theirs(), plan)
    loop.train(plan, engine, objective, steps, RecordingSurroundings(), 0)
    engine.close()
    ratios = {
        name: [mine / other for mine, other in zip(seconds[name], seconds["bare"], strict=True)]
        for name in ("ours", "again")
    }
    middle = statistics.median(seconds["bare"])
    return middle, median_and_error(ratios["ours"]), median_and_error(ratios["again"])


def main() -> None:
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    parameters = sum(p.numel() for p in model_and_objective()[0]["model"].parameters())
    print(f"{ranks} ranks, {parameters} parameters, load {os.getloadavg()[0]:.1f}")
    print("| strategy | bare step ms | ours / bare | bare again / bare |\n|---|---|---|---|")
    for name, strategy in KINDS.items():
        with Ranks(ranks, preload=["deepspeed"]) as pool:
            bare_seconds, ratio, noise = pool.run(compare, strategy, parameters)[0]
        print(
            f"| {name} | {1e3 * bare_seconds:.1f} | {ratio[0]:.3f} ± {ratio[1]:.3f} | {noise[0]:.3f} ± {noise[1]:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
