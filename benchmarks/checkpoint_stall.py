"""How long a save holds training up, and how much it slows the steps beside it.

Run: ``python benchmarks/checkpoint_stall.py [MB]`` (a minute). In one run and on one disk: ``torch.save`` of the same
bytes, DCP's synchronous save, ours synchronous and asynchronous.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from orchestrator.checkpoint import Checkpoints

REPEATS = 15


@dataclass(frozen=True)
class Range:
    kind: str
    name: str
    shape: tuple[int, ...]
    start: int
    values: Tensor


def seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    torch.set_num_threads(1)
    state = {f"layer.{index}": torch.randn(1000, 250) for index in range(megabytes)}
    total = sum(t.numel() * 4 for t in state.values())

    def ranges() -> Iterator[Range]:
        for name, tensor in state.items():
            yield Range("parameter", f"model/{name}", tuple(tensor.shape), 0, tensor.reshape(-1))

    a, b = torch.randn(256, 256), torch.randn(256, 256)

    def train_step() -> None:
        for _ in range(20):
            torch.mm(a, b)

    times: dict[str, list[float]] = {
        name: [] for name in ("torch", "dcp", "sync", "async", "alone", "beside")
    }
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder, attempt=1, rank=0, world_size=1)
        for turn in range(REPEATS + 1):
            path = Path(folder, "peer")
            measured = {"torch": seconds(lambda p=path: torch.save(state, p))}
            path.unlink()
            measured["dcp"] = seconds(lambda p=path: dcp.save(state, checkpoint_id=p, no_dist=True))
            shutil.rmtree(path)
            measured["sync"] = checkpoints.save(2 * turn, ranges(), {}, asynchronous=False)
            measured["alone"] = statistics.median(seconds(train_step) for _ in range(60))
            measured["async"] = checkpoints.save(2 * turn + 1, ranges(), {}, asynchronous=True)
            beside = []
            while checkpoints.is_writing:
                beside.append(seconds(train_step))
            checkpoints.wait()
            measured["beside"] = statistics.median(beside)
            checkpoints.prune(1, 0, "loss", "min")
            if turn:
                for name, value in measured.items():
                    times[name].append(value)
        staged = checkpoints.staged_bytes
    middle = {name: min(values) for name, values in times.items()}
    print(f"{total / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f}; best of {REPEATS}")
    print("| | seconds held up | against torch.save | against DCP |\n|---|---|---|---|")
    for name, label in (
        ("torch", "torch.save"), ("dcp", "DCP, synchronous"), ("sync", "ours, synchronous"), ("async", "ours, asynchronous")
    ):  # fmt: skip
        print(
            f"| {label} | {middle[name]:.3f} | {middle[name] / middle['torch']:.2f} | {middle[name] / middle['dcp']:.2f} |"
        )
    print(
        f"\nsteps beside the background write: {statistics.median(times['beside']) / statistics.median(times['alone']):.2f} of their time without it"
    )
    print(f"CPU memory held for copies: {staged / total:.2f} of the bytes saved")


if __name__ == "__main__":
    main()
