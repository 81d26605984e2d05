"""How long a save holds training up, and how much it slows the steps beside it.

Run: ``python benchmarks/checkpoint_stall.py [MB]`` (two minutes). In one run of the training loop and on one disk:
``torch.save`` of the same bytes, DCP's synchronous save, ours synchronous and asynchronous. The state is that of a
feed-forward network and its AdamW (batch 64, one thread). The asynchronous stall is the time in ``save`` and the time
that the next update waits for the copy.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from orchestrator import loop, strategies
from orchestrator.checkpoint import Checkpoints
from orchestrator.checkpoint.find import committed
from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import ClassificationConfig, MlpConfig
from orchestrator.strategies.base import Engine
from orchestrator.testing import RecordingSurroundings, small_plan, steps_of

ROUNDS, STEPS_BETWEEN = 10, 10
WIDTH, BATCH = 1024, 64
NAMES = {
    "torch": "torch.save",
    "dcp": "DCP, synchronous",
    "sync": "ours, synchronous",
    "async": "ours, asynchronous",
}


class Stopwatch(RecordingSurroundings):
    """Saves by turns as the peers do and synchronously, or asynchronously; times saves and the steps between them."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        super().__init__()
        self.seconds: dict[str, list[float]] = {name: [] for name in (*NAMES, "alone", "beside")}
        self._folder, self._training = folder, engine
        self._store = Checkpoints(str(folder / "ours"), attempt=1, rank=0, world_size=1)
        self._writing: int | None = None
        self._begun = time.perf_counter()
        self._waited = 0.0

    def before_update(self) -> None:
        self._waited = self._store.wait_until_copied()
        if self._writing is not None:
            self.seconds["async"][-1] += self._waited

    def stop_requested(self, step: int) -> bool:
        """Called once after each step."""
        took = time.perf_counter() - self._begun - self._waited
        self.seconds["alone" if self._writing is None else "beside"].append(took)
        if self._writing is not None and any(c.step == self._writing for c in committed(self._store_root)):
            self._writing = None
        self._begun = time.perf_counter()
        return False

    def finish(self) -> None:
        """Let the last save end."""
        self._store.wait()

    def save(self, step: int, metrics: dict[str, float]) -> None:
        self.finish()
        self._writing = None
        self._store.prune(1, 0, "loss", "min")
        if step // STEPS_BETWEEN % 2:
            self._as_peers_do()
            self.seconds["sync"].append(self._ours(step, asynchronous=False))
        else:
            self.seconds["async"].append(self._ours(step, asynchronous=True))
            self._writing = step
        self._begun = time.perf_counter()

    @property
    def _store_root(self) -> str:
        return str(self._folder / "ours")

    def _ours(self, step: int, *, asynchronous: bool) -> float:
        return self._store.save(step, self._training.state(), {}, asynchronous=asynchronous)

    def _as_peers_do(self) -> None:
        state: dict[str, Tensor] = {
            f"{part.kind}/{part.name}": part.values for part in self._training.state()
        }
        peer = self._folder / "peer"
        self.seconds["torch"].append(_timed(lambda: torch.save(state, peer)))
        peer.unlink()
        self.seconds["dcp"].append(_timed(lambda: dcp.save(state, checkpoint_id=peer, no_dist=True)))
        shutil.rmtree(peer)


def _timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    torch.set_num_threads(1)
    depth = max(
        1, round(megabytes * 1e6 / 12 / WIDTH**2)
    )  # fp32 weights and two moments: 12 bytes a parameter
    model = MlpConfig(in_features=WIDTH, width=WIDTH, depth=depth, outputs=2)
    objective = build_objective(model, ClassificationConfig())
    modules = build_modules(model, ClassificationConfig())
    steps = 2 * ROUNDS * STEPS_BETWEEN
    plan = small_plan(
        training={"max_steps": steps, "global_batch_size": BATCH, "log_every": steps},
        checkpoint_every=STEPS_BETWEEN,
    )
    engine = strategies.prepare(plan, modules, objective, torch.device("cpu"))
    batch = {"features": torch.randn(BATCH, WIDTH), "label": torch.zeros(BATCH, dtype=torch.long)}
    with tempfile.TemporaryDirectory() as folder:
        around = Stopwatch(Path(folder), engine)
        batches = repeat(batch, steps)
        loop.train(plan, engine, objective, steps_of(batches, plan), around, start_step=0)
        around.finish()
    report(around.seconds, megabytes)


def report(seconds: dict[str, list[float]], megabytes: int) -> None:
    # the first of each warms up: buffers grow, files are new
    middle = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    print(f"{megabytes} MB, load {os.getloadavg()[0]:.1f}; median of {ROUNDS - 1}")
    print("| | seconds held up | against torch.save | against DCP |\n|---|---|---|---|")
    for name, label in NAMES.items():
        mine = middle[name]
        print(f"| {label} | {mine:.3f} | {mine / middle['torch']:.2f} | {mine / middle['dcp']:.2f} |")
    print(
        f"\nsteps beside the background write: {middle['beside'] / middle['alone']:.2f} of their time without it"
    )


if __name__ == "__main__":
    main()
