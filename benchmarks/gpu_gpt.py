"""GPT on one GPU, bf16: tokens/s, share of the device's peak (MFU) and peak memory, through our engines and bare.

Run: ``python benchmarks/gpu_gpt.py [--size 124m] [--context 1024] [--micro-batch 8]`` (minutes on a GPU). Each row is a
process of its own; steps of the bare loop come first and last, so that what the device does by itself shows. Without a
GPU it runs on the CPU, for which ``--size debug --context 64`` is meant, and only shows that it works.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
import torch.nn.functional as F
from engine_bench import plan_for

from orchestrator import models, strategies
from orchestrator.models.configs import CausalLmConfig, GptConfig
from orchestrator.models.sizes import count
from orchestrator.strategies.optimizers import build_optimizer, parameter_groups
from orchestrator.telemetry.step_metrics import PEAK_TFLOPS

KINDS: dict[str, dict[str, Any] | None] = {
    "bare": None,
    "ddp": {"kind": "ddp"},
    "fsdp": {"kind": "fsdp"},
    "zero-2": {"kind": "zero", "stage": 2},
    "bare again": None,
}
VOCABULARY, CLIP, WARM = 50_304, 1.0, 5
Tokens = torch.Tensor
Step = Callable[[Tokens], None]


def config_of(size: str, context: int) -> GptConfig:
    return GptConfig(size=size, context=context, vocabulary=VOCABULARY, dropout=0.0)


def through_engine(config: GptConfig, strategy: dict[str, Any], device: torch.device, batch: int) -> Step:
    kind = CausalLmConfig()
    objective = models.build_objective(config, kind)
    parameters = count(config, kind).parameters
    plan = plan_for(strategy, 1, parameters=parameters, precision="bf16", batch=batch)
    engine = strategies.prepare(plan, models.build_modules(config, kind), objective, device)

    def step(tokens: Tokens) -> None:
        with engine.micro_step("model", last=True):
            with engine.autocast():
                sums = objective.loss("model", engine.modules, {"tokens": tokens})
            engine.backward("model", sums.loss / sums.count)
        engine.step("model", 1.0, CLIP)

    return step


def bare(config: GptConfig, device: torch.device) -> Step:
    """The model, autocast and the optimizer, and nothing else."""
    model = models.build_modules(config, CausalLmConfig())["model"].to(device)
    spec = plan_for({"kind": "ddp"}, 1, parameters=1).job.training.optimizer
    optimizer = build_optimizer(parameter_groups(model.named_parameters(), spec), spec, device)

    def step(tokens: Tokens) -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(tokens[:, :-1])
            loss = F.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def batches(config: GptConfig, batch: int, device: torch.device) -> Iterator[Tokens]:
    generator = torch.Generator().manual_seed(1)
    while True:
        shape = (batch, config.context + 1)
        yield torch.randint(0, VOCABULARY, shape, generator=generator).to(device)


def measure(
    size: str, context: int, batch: int, steps: int, strategy: dict[str, Any] | None
) -> tuple[float, float]:
    """(median seconds of a step, peak bytes on the device)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    config = config_of(size, context)
    step = bare(config, device) if strategy is None else through_engine(config, strategy, device, batch)
    seconds = []
    for index, tokens in zip(range(WARM + steps), batches(config, batch, device), strict=False):
        begun = time.perf_counter()
        step(tokens)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if index >= WARM:
            seconds.append(time.perf_counter() - begun)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return statistics.median(seconds), float(peak)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="124m")
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--micro-batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50)
    chosen = parser.parse_args()
    counted = count(config_of(chosen.size, chosen.context), CausalLmConfig())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    peak_tflops = next((peak for part, peak in PEAK_TFLOPS.items() if part in device), None)
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
        mfu = f"{flops / (peak_tflops * 1e12):.3f}" if peak_tflops else "-"
        print(
            f"| {name} | {tokens:,.0f} | {1e3 * seconds:.1f} | {seconds / first:.3f} | {mfu} | {peak / 2**30:.2f} GiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
