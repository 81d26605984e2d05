"""ZeRO-3 with its state in files: the same numbers, and the same checkpoints. Needs libaio and a C++ compiler."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import engine_toys as toys
import pytest
import torch
from ranks_fixture import Pools, pools
from test_engines import assert_same

__all__ = ["pools"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # the first use compiles
    pytest.mark.skipif(
        not Path("/usr/include/libaio.h").exists() or shutil.which("c++") is None,
        reason="DeepSpeed's async I/O needs libaio's headers and a C++ compiler",
    ),
]

WIDTH = 512
"""Groups of less than 1 MB stay in memory; this makes 8 MB."""
BF16 = {"precision": "bf16", "optimizer": {"learning_rate": 1e-4}}
FP32 = {"optimizer": {"learning_rate": 1e-4}}


train = partial(toys.train, width=WIDTH)


def zero3(world_size: int, folder: Path, masters: str, parameters: str, **training: Any) -> Any:
    offload = {"optimizer": masters, "parameters": parameters, "nvme_path": str(folder)}
    return toys.toy_plan(world_size, {"kind": "zero", "stage": 3, "offload": offload}, **training)


@pytest.mark.parametrize("world_size", [1, 2])
def test_optimizer_state_in_files_changes_no_number(pools: Pools, tmp_path: Path, world_size: int) -> None:
    runs = pools.run(world_size, partial(train, steps=6), zero3(world_size, tmp_path, "nvme", "none", **FP32))
    assert list(tmp_path.rglob("exp_avg*.swp")), "nothing was kept in files"
    assert_same(runs, train(toys.toy_plan(1, {"kind": "ddp"}, **FP32), steps=6))


def test_parameters_in_files_change_no_number_in_bf16(pools: Pools, tmp_path: Path) -> None:
    in_files = pools.run(2, partial(train, steps=6), zero3(2, tmp_path, "nvme", "nvme", **BF16))
    in_memory = pools.run(2, partial(train, steps=6), toys.toy_plan(2, {"kind": "zero", "stage": 3}, **BF16))
    assert [run.losses for run in in_files] == [run.losses for run in in_memory]
    got = toys.assembled(in_files)
    for key, tensor in toys.assembled(in_memory).items():
        torch.testing.assert_close(got[key], tensor, rtol=1e-6, atol=1e-8)


def test_a_run_goes_on_with_its_state_in_files_and_out_of_them_again(pools: Pools, tmp_path: Path) -> None:
    """Saved from files, the state is bit for bit what goes into files, or into DDP."""
    nvme, ddp = zero3(2, tmp_path / "nvme", "nvme", "none", **FP32), toys.toy_plan(2, {"kind": "ddp"}, **FP32)
    saved = toys.assembled(pools.run(2, partial(train, steps=3, save=str(tmp_path / "one")), nvme))
    onward = partial(train, start=3, resume=str(next((tmp_path / "one").glob("step-*"))))
    for plan in (nvme, ddp):
        loaded = toys.assembled(pools.run(2, partial(onward, steps=0), plan))
        assert loaded.keys() == saved.keys()
        for key, tensor in saved.items():
            assert torch.equal(loaded[key], tensor), key
    alone = onward(toys.toy_plan(1, {"kind": "ddp"}, **FP32), steps=3)
    assert_same(pools.run(2, partial(onward, steps=3), nvme), alone)
