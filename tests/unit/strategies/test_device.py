"""What a job says of number formats and determinism, as this process then computes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from orchestrator.spec.training import TrainingSpec
from orchestrator.strategies.device import set_up


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    cudnn, precision = torch.backends.cudnn, torch.get_float32_matmul_precision()
    tf32, benchmark = cudnn.allow_tf32, cudnn.benchmark
    yield
    cudnn.allow_tf32, cudnn.benchmark = tf32, benchmark
    torch.set_float32_matmul_precision(precision)
    torch.use_deterministic_algorithms(False)


def training(**fields: bool) -> TrainingSpec:
    return TrainingSpec.model_validate({"max_steps": 1, "global_batch_size": 1, **fields})


def test_a_gpu_computes_products_in_tf32_unless_told_otherwise() -> None:
    set_up(training(), torch.device("cuda", 0))
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.benchmark
    set_up(training(tf32=False), torch.device("cuda", 0))
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_deterministic_means_torch_s_algorithms_and_cublas_workspace() -> None:
    set_up(training(deterministic=True), torch.device("cuda", 0))
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    set_up(training(), torch.device("cpu"))
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_cpu_s_products_are_left_as_they_are() -> None:
    before = torch.get_float32_matmul_precision()
    set_up(training(), torch.device("cpu"))
    assert torch.get_float32_matmul_precision() == before


_THREAD_S_MEMORY = """
import sys, threading
from pathlib import Path
import torch
from orchestrator.spec.training import TrainingSpec
from orchestrator.strategies.device import set_up
from orchestrator.strategies.materialize import release_freed_memory

def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1000

def work():
    for megabytes in (24, 20):  # from the first one on, malloc takes what is not larger from its arena
        torch.ones(megabytes * 250_000)

if sys.argv[1] == "set up":
    set_up(TrainingSpec(max_steps=1, global_batch_size=1), torch.device("cpu"))
torch.ones(1)
before = resident()
thread = threading.Thread(target=work)
thread.start()
thread.join()
release_freed_memory()
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory otherwise")
def test_what_a_thread_has_freed_is_not_kept() -> None:
    def kept(how: str) -> float:
        command = [sys.executable, "-c", _THREAD_S_MEMORY, how]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))
        }
        return float(
            subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        )

    if kept("as it is") < 10:
        pytest.skip("here the kernel takes back what a thread has freed")
    assert kept("set up") < 10
