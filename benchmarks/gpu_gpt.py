"""GPT on one GPU, bf16: tokens/s, share of the device's peak (MFU) and peak memory, through our loop and engines and bare.

Run: ``python benchmarks/gpu_gpt.py [--size 124m] [--context 1024] [--micro-batch 8]`` (minutes on a GPU). Each row is a
process of its own; steps of the bare loop come first and last, so that what the device does by itself shows. Without a
GPU it runs on the CPU, for which ``--size debug --context 64`` is meant, and only shows that it works.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
import torch.nn.functional as F
from engine_bench import CLIP, plan_for

from orchestrator import loop, models, strategies
from orchestrator.models.configs import CausalLmConfig, GptConfig
from orchestrator.models.sizes import count
from orchestrator.planning.plan import Plan
from orchestrator.strategies.blocks import compile_blocks
from orchestrator.strategies.optimizers import build_optimizer, parameter_groups
from orchestrator.telemetry.device_peaks import peak_tflops
from orchestrator.testing import RecordingSurroundings, steps_of

KINDS: dict[str, dict[str, Any] | None] = {
    "bare": None,
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "zero-1": {"kind": "zero", "stage": 1},
    "zero-2": {"kind": "zero", "stage": 2},
    "zero-3": {"kind": "zero", "stage": 3},
    "bare again": None,
}
VOCABULARY, WARM = 50_304, 5
Tokens = torch.Tensor


def config_of(size: str, context: int) -> GptConfig:
    return GptConfig(size=size, context=context, vocabulary=VOCABULARY, dropout=0.0)


def train_through_loop(
    config: GptConfig,
    strategy: dict[str, Any],
    device: torch.device,
    batch: int,
    steps: int,
    tokens: Iterator[Tokens],
    compiled: bool,
) -> None:
    kind = CausalLmConfig()
    objective = models.build_objective(config, kind)
    plan = plan_of(config, strategy, device, batch, steps, compile=compiled)
    engine = strategies.prepare(plan, models.build_modules(config, kind), objective, device)
    given = steps_of(({"tokens": one} for one in tokens), plan, device=device)
    loop.train(plan, engine, objective, given, RecordingSurroundings(), 0)


def plan_of(
    config: GptConfig,
    strategy: dict[str, Any],
    device: torch.device,
    batch: int,
    steps: int,
    **training: Any,
) -> Plan:
    """One worker's, in bf16, for the device."""
    kind = CausalLmConfig()
    parameters = count(config, kind).parameters
    plan = plan_for(strategy, 1, steps=steps, parameters=parameters, precision="bf16", batch=batch)
    plan = plan.model_copy(update={"job": plan.job.model_copy(update={"model": config, "objective": kind})})
    return on_device(plan, device, **training)


def on_device(plan: Plan, device: torch.device, **training: Any) -> Plan:
    """The plan with a GPU for its worker where the device is one, and more of the job's section ``training``."""
    job = plan.job
    scaling = job.scaling.model_copy(update={"gpus_per_worker": int(device.type == "cuda")})
    more = {"scaling": scaling, "training": job.training.model_copy(update=training)}
    return plan.model_copy(update={"job": job.model_copy(update=more)})


def train_bare(config: GptConfig, device: torch.device, tokens: Iterator[Tokens], compiled: bool) -> None:
    """The model, autocast and the optimizer, and nothing else."""
    model = models.build_modules(config, CausalLmConfig())["model"].to(device)
    if compiled:
        compile_blocks(model)
    spec = plan_for({"kind": "ddp"}, 1, steps=1, parameters=1).job.training.optimizer
    optimizer = build_optimizer(parameter_groups(model.named_parameters(), spec), spec, device)
    for one in tokens:
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(one[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1).float(), one[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def timed(
    config: GptConfig, batch: int, device: torch.device, steps: int, seconds: list[float]
) -> Iterator[Tokens]:
    """Batches; how long whoever took one was busy with it, once warm, is added to ``seconds``."""
    generator = torch.Generator().manual_seed(1)
    for index in range(steps):
        shape = (batch, config.context + 1)
        tokens = torch.randint(0, VOCABULARY, shape, generator=generator).to(device)
        begun = time.perf_counter()
        yield tokens
        if device.type == "cuda":
            torch.cuda.synchronize()
        if index >= WARM:
            seconds.append(time.perf_counter() - begun)


def measure(
    size: str,
    context: int,
    batch: int,
    steps: int,
    strategy: dict[str, Any] | None,
    compiled: bool = False,
) -> tuple[float, float]:
    """(median seconds of a step, peak bytes on the device)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    config, seconds, total = config_of(size, context), [], WARM + steps + 1  # the last one ends untimed
    tokens = timed(config, batch, device, total, seconds)
    if strategy is None:
        train_bare(config, device, tokens, compiled)
    else:
        train_through_loop(config, strategy, device, batch, total, tokens, compiled)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return statistics.median(seconds[:steps]), float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="124m")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    chosen = parser.parse_args()
    counted = count(config_of(chosen.size, chosen.context), CausalLmConfig())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    device_tflops = peak_tflops(device)
    print(
        f"gpt {chosen.size}, {counted.parameters:,} parameters, bf16, batch {chosen.micro_batch} × {chosen.context}, {device}"
    )
    print("| | tokens/s | step ms | against bare | MFU | peak memory |\n|---|---|---|---|---|---|")
    first = 0.0
    for name, strategy in KINDS.items():
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            seconds, peak = pool.submit(
                measure, chosen.size, chosen.context, chosen.micro_batch, chosen.steps, strategy
            ).result()
        first = first or seconds
        tokens = chosen.micro_batch * chosen.context / seconds
        flops = counted.flops_per_sample * chosen.micro_batch / seconds
        mfu = f"{flops / (device_tflops * 1e12):.3f}" if device_tflops else "-"
        print(
            f"| {name} | {tokens:,.0f} | {1e3 * seconds:.1f} | {seconds / first:.3f} | {mfu} | {peak / 2**30:.2f} GiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
