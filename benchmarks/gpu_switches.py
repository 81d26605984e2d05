"""What each choice for GPUs is worth: seconds without it and with it, in one process, by turns.

Run: ``python benchmarks/gpu_switches.py`` (a minute on a GPU). On the CPU, with small sizes, it only shows that it works.
What needs two GPUs (FSDP's root that stays gathered, gradients exchanged in bf16) is not here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.models import build_modules
from orchestrator.models.attention import attend, borders_of, seen_in_documents
from orchestrator.models.configs import ClassificationConfig, CnnConfig
from orchestrator.strategies.copies import Copies, for_kernels
from orchestrator.strategies.replicated import Buffers, persistent_buffers

Pair = tuple[Callable[[], object], Callable[[], object]]
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

    def product(precision: str) -> Callable[[], object]:
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

    def step(image: Tensor) -> Callable[[], object]:
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

    def step(borders: Tensor | None) -> Callable[[], object]:
        seen = seen_in_documents(document, borders, q, head_width=width, dropout=0.0)
        return lambda: attend(q, k, v, seen).sum().backward()

    return step(None), step(borders)


def pictures() -> Pair:
    """The way to the device as fractions, and as bytes."""
    count, side = (256, 224) if IS_GPU else (2, 8)
    levels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    copies = Copies(DEVICE)

    def sent(tensor: Tensor) -> Callable[[], object]:
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


def measured(name: str) -> tuple[float, float]:
    """Seconds without and with."""
    return seconds(SWITCHES[name](), 10 if IS_GPU else 2)


def main() -> None:
    print("| | ms without | ms with | ratio |\n|---|---|---|---|")
    for name in SWITCHES:
        without, with_ = measured(name)
        print(f"| {name} | {1e3 * without:.3f} | {1e3 * with_:.3f} | {without / with_:.2f} |", flush=True)


if __name__ == "__main__":
    main()
