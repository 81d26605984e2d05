"""What goes wrong on a GPU, as the loop and the driver hear of it, and one whole run there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import engine_toys as toys
import numpy as np
import pytest
import torch
from gpu_runs import DEVICE, HAS_GPU, on_gpus

from orchestrator import loop, strategies
from orchestrator.errors import NotANumberError
from orchestrator.rank import Rank
from orchestrator.recovery.incidents import incident_of
from orchestrator.runs import EndReason
from orchestrator.testing import RecordingSurroundings, steps_of

ROOT = Path(__file__).parents[2]


class NoNumber(toys.Classify):
    """Its loss is no number from the third call on."""

    calls = 0

    def loss(self, phase: str, modules: Any, batch: Any) -> Any:
        sums = super().loss(phase, modules, batch)
        self.calls += 1
        return sums if self.calls < 3 else type(sums)(sums.loss * float("nan"), sums.count, {})


class Unchecked(toys.Classify):
    """Takes any batch."""

    def inputs(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_that_diverges_ends(strategy: str) -> None:
    """In fp16, where there is a GPU: the scale falls to 1 before it counts as diverged."""
    plan = on_gpus(toys.toy_plan(1, {"kind": strategy}, precision="fp16" if HAS_GPU else "bf16", log_every=1))
    engine = strategies.prepare(plan, toys.toy_modules("classify"), NoNumber(), torch.device(DEVICE))
    around = RecordingSurroundings(stop_at=60)
    steps = steps_of((toys.global_batch(step) for step in range(60)), plan, device=DEVICE)
    with pytest.raises(NotANumberError):
        loop.train(plan, engine, NoNumber(), steps, around, 0)
    engine.close()


@pytest.mark.skipif(not HAS_GPU, reason="a CPU's memory is not for a test to fill")
def test_too_large_a_tensor_is_out_of_memory_and_not_tried_again() -> None:
    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(1 << 46, device=DEVICE)
    incident = incident_of(caught.value)
    assert incident.reason is EndReason.OUT_OF_MEMORY and not incident.retry


def test_batches_come_through_pinned_memory_as_they_are() -> None:
    plan = on_gpus(toys.toy_plan(1, {"kind": "ddp"}))
    engine = strategies.prepare(plan, toys.toy_modules("classify"), Unchecked(), torch.device(DEVICE))
    rank = Rank(plan, Unchecked(), engine)
    arrays = {
        "image": np.arange(2 * 3 * 8 * 8, dtype=np.uint8).reshape(2, 3, 8, 8),
        "x": np.linspace(0, 1, 10, dtype=np.float32).reshape(2, 5),
    }
    for _ in range(20):  # memory that is used again must not be read again
        tensors = rank.to_tensors(arrays)
        assert all(tensor.is_pinned() == HAS_GPU for tensor in tensors.values())
        there = rank.to_device(tensors)
        assert np.array_equal(there["x"].cpu().numpy(), arrays["x"])
        wanted = arrays["image"] * np.float32(1 / 255) if HAS_GPU else arrays["image"]
        assert np.array_equal(there["image"].cpu().numpy(), wanted)
    rank.close()


@pytest.mark.ray
@pytest.mark.skipif(not HAS_GPU, reason="tests/integration has whole runs on the CPU")
def test_a_whole_run(tmp_path: Path) -> None:
    settings = [
        "scaling.workers=1",
        "scaling.gpus_per_worker=1",
        "training.precision=bf16",
        "training.max_steps=6",
    ]
    main = "from orchestrator.cli import main; main()"
    command = [sys.executable, "-c", main, "run", "examples/digits-cnn.yaml"]
    done = subprocess.run(
        [*command, "--set", "training.epochs=null", *(part for one in settings for part in ("--set", one))],
        cwd=ROOT,
        env=os.environ | {"TRAINWRIGHT_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
