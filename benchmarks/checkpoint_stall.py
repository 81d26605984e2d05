"""How long a save holds training up, and how much it slows the steps beside it.

Run: ``python benchmarks/checkpoint_stall.py [MB]`` (two minutes). In one run and on one disk: ``torch.save`` of the same
bytes, DCP's synchronous save, ours synchronous and asynchronous. The state is that of a feed-forward network and its
AdamW; training is its own steps (batch 64, one thread). The asynchronous stall is the time in ``save`` and the time
that the next update waits for the copy.
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
from torch import Tensor, nn

from orchestrator.checkpoint import Checkpoints

REPEATS = 9
WIDTH, BATCH = 1024, 64


@dataclass(frozen=True)
class Range:
    kind: str
    name: str
    shape: tuple[int, ...]
    start: int
    values: Tensor
    until_update: bool = True


def seconds(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


class Training:
    """A network, AdamW and one batch; fp32 weights and two moments make 12 bytes a parameter."""

    def __init__(self, megabytes: int) -> None:
        layers = max(1, round(megabytes * 1e6 / 12 / WIDTH**2))
        self.model = nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6)
        self.input = torch.randn(BATCH, WIDTH)

    def forward_backward(self) -> None:
        self.model(self.input).square().mean().backward()

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def state(self) -> dict[str, Tensor]:
        return {
            f"{kind}/{name}": values.detach()
            for name, weight in self.model.named_parameters()
            for kind, values in (("parameter", weight), *self.optimizer.state[weight].items())
            if kind != "step"
        }

    def ranges(self) -> Iterator[Range]:
        for key, tensor in self.state().items():
            kind, _, name = key.partition("/")
            yield Range(kind, f"model/{name}", tuple(tensor.shape), 0, tensor.reshape(-1))


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    torch.set_num_threads(1)
    training = Training(megabytes)

    def step(checkpoints: Checkpoints) -> tuple[float, float]:
        """Seconds of the step, and those of them that its update waited."""
        begun = time.perf_counter()
        training.forward_backward()
        waited = checkpoints.wait_until_copied()
        training.update()
        return time.perf_counter() - begun, waited

    names = ("torch", "dcp", "sync", "async", "alone", "beside")
    times: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(folder, attempt=1, rank=0, world_size=1)
        step(checkpoints)
        total = sum(t.numel() * 4 for t in training.state().values())
        for turn in range(REPEATS + 1):
            path = Path(folder, "peer")
            measured = {"torch": seconds(lambda p=path: torch.save(training.state(), p))}
            path.unlink()
            measured["dcp"] = seconds(
                lambda p=path: dcp.save(training.state(), checkpoint_id=p, no_dist=True)
            )
            shutil.rmtree(path)
            measured["sync"] = checkpoints.save(2 * turn, training.ranges(), {}, asynchronous=False)
            measured["alone"] = statistics.median(step(checkpoints)[0] for _ in range(8))
            measured["async"] = checkpoints.save(2 * turn + 1, training.ranges(), {}, asynchronous=True)
            beside = []
            while checkpoints.is_writing:
                took, waited = step(checkpoints)
                beside.append(took - waited)
                measured["async"] += waited
            checkpoints.wait()
            measured["beside"] = statistics.mean(beside)
            checkpoints.prune(1, 0, "loss", "min")
            if turn:
                for name, value in measured.items():
                    times[name].append(value)
        staged = checkpoints.staged_bytes
    middle = {name: statistics.median(values) for name, values in times.items()}
    print(f"{total / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f}; median of {REPEATS}")
    print("| | seconds held up | against torch.save | against DCP |\n|---|---|---|---|")
    for name, label in (
        ("torch", "torch.save"), ("dcp", "DCP, synchronous"), ("sync", "ours, synchronous"), ("async", "ours, asynchronous")
    ):  # fmt: skip
        print(
            f"| {label} | {middle[name]:.3f} | {middle[name] / middle['torch']:.2f} | {middle[name] / middle['dcp']:.2f} |"
        )
    print(
        f"\nsteps beside the background write: {middle['beside'] / middle['alone']:.2f} of their time without it"
    )
    print(f"CPU memory held for copies: {staged / total:.2f} of the bytes saved")


if __name__ == "__main__":
    main()
