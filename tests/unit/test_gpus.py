"""Which GPUs a local run takes, where no GPU is: the driver's folder, its tool, and who holds what."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator import gpus
from orchestrator.errors import ResourcesError


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of three GPUs."""
    folder = tmp_path / "driver"
    for card in ("0000:01", "0000:02", "0000:03"):
        (folder / card).mkdir(parents=True)
    monkeypatch.setattr(gpus, "_DRIVER", folder)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("-1", []),
        ("2, 0", ["2", "0"]),
        ("1,-1,2", ["1"]),
        ("MIG-4f", ["MIG-4f"]),
    ],
)
def test_those_that_cuda_would_see(
    choice: str | None, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if choice is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", choice)
    assert gpus.visible_gpus() == names


def test_under_wsl_its_tool_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'GPU 0: NVIDIA A (UUID: GPU-1)'\necho '  MIG 1g: x'\necho 'GPU 1: NVIDIA B'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpus.visible_gpus() == ["0", "1"]


def test_two_runs_take_different_ones_and_give_them_back() -> None:
    with gpus.held_gpus(1, "first") as one:
        assert os.environ.pop("CUDA_VISIBLE_DEVICES") == "0"  # which another process has not
        with gpus.held_gpus(1, "second") as other:
            assert (one, other) == (["0"], ["1"])
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    with gpus.held_gpus(3, "third") as all_of_them:
        assert all_of_them == ["0", "1", "2"]


def test_who_holds_them_is_named() -> None:
    with gpus.held_gpus(2, "mnist-a1"):
        os.environ.pop("CUDA_VISIBLE_DEVICES")
        with (
            pytest.raises(ResourcesError, match="only 1 are free: mnist-a1 hold the others"),
            gpus.held_gpus(2, "digits-b2"),
        ):
            raise AssertionError


def test_more_than_there_are_is_said_and_none_asks_nothing() -> None:
    with (
        pytest.raises(ResourcesError, match="4 GPUs are asked for, but this machine has 3"),
        gpus.held_gpus(4, "x"),
    ):
        raise AssertionError
    with gpus.held_gpus(0, "x") as none:
        assert none == []
