"""``make gpu`` on the CPU with sizes of debugging: what it does is kept, and not done again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
DONE = ("switch: buffers remembered", "gpt debug ddp")


def session(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "benchmarks/gpu_session.py", "--folder", str(folder), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_session_goes_on_where_it_was(tmp_path: Path) -> None:
    session(tmp_path, "--only", ",".join(DONE))
    first = json.loads((tmp_path / "results.json").read_text())
    assert set(first["results"]) == set(DONE) and not first["left"]
    assert first["results"]["gpt debug ddp"]["tokens_per_second"] > 0
    assert first["missed"] == []
    said = session(tmp_path, "--only", ",".join((*DONE, "samples")), "--seconds", "0")
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["results"] == first["results"] and again["left"] == ["samples"]
    assert "no time was left for samples" in said
    assert all(name in (tmp_path / "results.md").read_text() for name in DONE)


@pytest.mark.parametrize(
    ("part", "bar"),
    [
        ("memory fsdp none", {"error_of_prediction": 0.1}),
        ("data from Parquet", {"data_wait_share": 1}),
        ("stall", {"of_a_minute": 1}),
    ],
)
def test_a_part_gives_its_numbers(part: str, bar: dict[str, float]) -> None:
    """Times are whatever a shared CPU gives; memory is held to the bar of a GPU."""
    command = [sys.executable, "benchmarks/gpu_session.py", "--part", part]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert all(abs(result[name]) <= most for name, most in bar.items())


@pytest.mark.slow
def test_each_switch_is_measured_also_between_two_ranks() -> None:
    command = [sys.executable, "benchmarks/gpu_switches.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|")[1:-1] for line in done.stdout.splitlines()[2:]]
    measured = [name.strip() for name, *_ in rows]
    assert measured[:2] == ["TF32", "pictures in channels-last order"]
    if torch.cuda.device_count() != 1:  # two ranks: two GPUs, or none
        assert measured[-4:] == [
            "gradients exchanged in bf16, ddp",
            "gradients exchanged in bf16, fsdp",
            "FSDP2's root stays gathered",
            "copies beside steps of two ranks",
        ]
    assert all(float(number) > 0 for _, *numbers in rows for number in numbers[:2])
