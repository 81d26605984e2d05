"""What each choice for GPUs is worth: seconds without it and with it, in one process, by turns.

Run: ``python benchmarks/gpu_switches.py`` (a minute on a GPU). On the CPU, with small sizes, it only shows that it works.
What lies between ranks takes two GPUs, and is left out where there is one; on the CPU two processes talk by gloo.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from engine_bench import plan_for
from torch import Tensor, nn

from orchestrator import strategies
from orchestrator.models import build_modules, build_objective
from orchestrator.models.attention import attend, borders_of, seen_in_documents
from orchestrator.models.base import Batch
from orchestrator.models.configs import (
    CausalLmConfig,
    ClassificationConfig,
    CnnConfig,
    FamilyConfig,
    GptConfig,
    ObjectiveConfig,
)
from orchestrator.models.sizes import count
from orchestrator.rank import Rank
from orchestrator.strategies.copies import Copies, for_kernels
from orchestrator.strategies.ranks import Ranks
from orchestrator.strategies.replicated import Buffers, persistent_buffers

Step = Callable[[], object]
Pair = tuple[Step, Step]
IS_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if IS_GPU else "cpu")


def seconds(pair: Pair, rounds: int) -> tuple[float, float]:
    """Median of each, taken by turns."""
    taken: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 2):
        for call, times in zip(pair, taken, strict=True):
            begun = time.perf_counter()
            call()
            if IS_GPU:
                torch.cuda.synchronize()
            if turn >= 2:
                times.append(time.perf_counter() - begun)
    return statistics.median(taken[0]), statistics.median(taken[1])


def tf32() -> Pair:
    width = 8192 if IS_GPU else 64
    x = torch.randn(width, width, device=DEVICE)

    def product(precision: str) -> Step:
        def call() -> Tensor:
            torch.set_float32_matmul_precision(precision)
            return x @ x

        return call

    return product("highest"), product("high")


def channels_last() -> Pair:
    config = CnnConfig(
        size="base" if IS_GPU else "debug", in_channels=3, image_size=224 if IS_GPU else 16, outputs=10
    )
    model = build_modules(config, ClassificationConfig())["model"].to(DEVICE)
    plain = torch.randn(64 if IS_GPU else 2, 3, config.image_size, config.image_size, device=DEVICE)

    def step(image: Tensor) -> Step:
        def call() -> None:
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = model(image).float().sum()
            loss.backward()

        return call

    return step(plain), step(plain.contiguous(memory_format=torch.channels_last))


def packed_attention() -> Pair:
    """Documents kept apart: by the mask that kernels take with shared heads spread out, and as the model does it."""
    texts, heads, shared, length, width = (4, 32, 8, 4096, 128) if IS_GPU else (1, 4, 2, 32, 8)
    dtype = torch.bfloat16 if IS_GPU else torch.float32
    numbers = np.broadcast_to(np.arange(length) // (length // 8), (texts, length))
    document, counted = torch.tensor(numbers, device=DEVICE), borders_of(numbers)
    assert counted is not None
    borders = torch.from_numpy(counted).to(DEVICE)

    def made(count: int) -> Tensor:
        return torch.randn(texts, count, length, width, device=DEVICE, dtype=dtype, requires_grad=True)

    q, k, v = made(heads), made(shared), made(shared)

    def step(borders: Tensor | None) -> Step:
        seen = seen_in_documents(document, borders, q, head_width=width, dropout=0.0)
        return lambda: attend(q, k, v, seen).sum().backward()

    return step(None), step(borders)


def pictures() -> Pair:
    """The way to the device as fractions, and as bytes."""
    count, side = (256, 224) if IS_GPU else (2, 8)
    levels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    copies = Copies(DEVICE)

    def sent(tensor: Tensor) -> Step:
        host = tensor.pin_memory() if IS_GPU else tensor
        return lambda: for_kernels(copies.begun(host))

    return sent(levels.float() / 255), sent(levels)


def copies_aside() -> Pair:
    """Steps whose batch comes in the stream that computes, and in one of its own."""
    width, rows = (8192, 16384) if IS_GPU else (16, 8)
    weight = torch.randn(width, width, device=DEVICE)
    host = torch.randn(rows, width)
    host = host.pin_memory() if IS_GPU else host
    copies = Copies(DEVICE)

    def between() -> None:
        for _ in range(4):
            host.to(DEVICE, non_blocking=True) @ weight

    def aside() -> None:
        for _ in range(4):
            with copies.aside():
                there = copies.begun(host)
            copies.wait_for([there])
            there @ weight

    return between, aside


def buffers() -> Pair:
    """Which buffers are a module's state: asked of its state dict, and remembered."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)) for _ in range(200))).to(DEVICE)
    found = Buffers(model)
    return lambda: persistent_buffers(model), found.now


SWITCHES: dict[str, Callable[[], Pair]] = {
    "TF32": tf32,
    "pictures in channels-last order": channels_last,
    "packed documents by their borders": packed_attention,
    "pictures sent as bytes": pictures,
    "copies in a stream of their own": copies_aside,
    "buffers remembered": buffers,
}


# -- between two ranks ---------------------------------------------------------------------------------------

RANKS = 2
Case = tuple[FamilyConfig, ObjectiveConfig, dict[str, Tensor]]


def language() -> Case:
    size, context, vocabulary, texts = ("124m", 1024, 50_304, 8) if IS_GPU else ("debug", 16, 64, 1)
    tokens = torch.randint(0, vocabulary, (texts, context + 1))
    return GptConfig(size=size, context=context, vocabulary=vocabulary), CausalLmConfig(), {"tokens": tokens}


def images() -> Case:
    size, side, count = ("base", 224, 128) if IS_GPU else ("debug", 16, 2)
    config = CnnConfig(size=size, in_channels=3, image_size=side, outputs=10)
    levels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    return config, ClassificationConfig(), {"image": levels, "label": torch.zeros(count, dtype=torch.long)}


def step_of(case: Case, strategy: Mapping[str, Any], *, aside: bool = True, root_stays: bool = True) -> Step:
    """A step in bf16 on this rank's engine, its batch copied from the host first.

    Args:
        case: model, objective and a batch.
        strategy: the job's section.
        aside: whether the copy is in a stream of its own.
        root_stays: whether FSDP2's root stays gathered from forward to backward.
    """
    config, kind, host = case
    device = torch.device("cuda", dist.get_rank()) if IS_GPU else DEVICE
    if IS_GPU:
        torch.cuda.set_device(device)
        host = {name: tensor.pin_memory() for name, tensor in host.items()}
    micro = len(next(iter(host.values())))
    parameters = count(config, kind).parameters
    plan = plan_for(strategy, RANKS, steps=1, parameters=parameters, precision="bf16", batch=micro)
    objective = build_objective(config, kind)
    engine = strategies.prepare(plan, build_modules(config, kind), objective, device)
    if not root_stays:
        root: Any = engine.modules["model"]
        root.set_reshard_after_forward(True, recurse=False)
    rank = Rank(plan, objective, engine)

    def beside_kernels() -> Batch:
        return {name: for_kernels(tensor.to(device, non_blocking=True)) for name, tensor in host.items()}

    def step() -> None:
        # on a CPU a rank copies nothing, and gives the batch on as it is
        batch = rank.to_device(host) if aside and IS_GPU else beside_kernels()
        with engine.micro_step("model", last=True):
            with engine.autocast():
                sums = objective.loss("model", engine.modules, batch)
            engine.backward("model", sums.loss / sums.count / RANKS)
        engine.step("model", 1.0, None)

    return step


def exchanged_in_bf16(strategy: str) -> Pair:
    case = language()
    first, second = ({"kind": strategy, "reduce_dtype": dtype} for dtype in ("fp32", "bf16"))
    return step_of(case, first), step_of(case, second)


def gathered_root() -> Pair:
    case, strategy = language(), {"kind": "fsdp"}
    return step_of(case, strategy, root_stays=False), step_of(case, strategy)


def copies_beside_steps() -> Pair:
    case, strategy = images(), {"kind": "ddp"}
    return step_of(case, strategy, aside=False), step_of(case, strategy)


BETWEEN_RANKS: dict[str, Callable[[], Pair]] = {
    "gradients exchanged in bf16, ddp": partial(exchanged_in_bf16, "ddp"),
    "gradients exchanged in bf16, fsdp": partial(exchanged_in_bf16, "fsdp"),
    "FSDP2's root stays gathered": gathered_root,
    "copies beside steps of two ranks": copies_beside_steps,
}


def names() -> list[str]:
    """What can be measured here."""
    return [*SWITCHES, *(BETWEEN_RANKS if not IS_GPU or torch.cuda.device_count() >= RANKS else ())]


def on_this_rank(name: str) -> tuple[float, float]:
    return seconds(BETWEEN_RANKS[name](), 10 if IS_GPU else 2)


def measured(name: str) -> tuple[float, float]:
    """Seconds without and with; between ranks those of the slower one."""
    if name in SWITCHES:
        return seconds(SWITCHES[name](), 10 if IS_GPU else 2)
    with Ranks(RANKS, backend="cpu:gloo,cuda:nccl" if IS_GPU else "gloo") as ranks:
        without, with_ = zip(*ranks.run(on_this_rank, name), strict=True)
    return max(without), max(with_)


def main() -> None:
    print("| | ms without | ms with | ratio |\n|---|---|---|---|")
    for name in names():
        without, with_ = measured(name)
        print(f"| {name} | {1e3 * without:.3f} | {1e3 * with_:.3f} | {without / with_:.2f} |", flush=True)


if __name__ == "__main__":
    main()
