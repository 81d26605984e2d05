"""Whose memory a worker has."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.planning.devices import DEVICE_MEMORY, Device, ThisMachine, device_of, runs_flash
from orchestrator.spec.profile import ClusterProfile
from orchestrator.spec.scaling import ScalingSpec

GB = 10**9
A_GPU = Device(name="NVIDIA X", memory=11 * GB)


def device(
    scaling: dict[str, Any], groups: list[dict[str, Any]] | None = None, local: bool = False
) -> Device | None:
    profile = {"name": "here", "kind": "local"} if local else {
        "name": "there", "kind": "ray", "address": "http://head:8265", "storage": "/shared",
    }  # fmt: skip
    made = [{"name": f"g{n}", "cpus": 8, "memory": 64 * GB, **group} for n, group in enumerate(groups or [])]
    return device_of(
        ScalingSpec.model_validate(scaling),
        ClusterProfile.model_validate({**profile, "node_groups": made}),
        lambda: ThisMachine(memory=16 * GB, gpu=A_GPU),
    )


ON_GPU = {"workers": 4, "gpus_per_worker": 1}


def test_the_profiles_accelerator_type() -> None:
    found = device(ON_GPU, [{"gpus": 8, "accelerator_type": "H200"}])
    assert found == Device(name="H200", memory=DEVICE_MEMORY["H200"])


def test_the_profile_goes_before_the_table() -> None:
    found = device(ON_GPU, [{"gpus": 8, "accelerator_type": "A100", "accelerator_memory": "80GB"}])
    assert found == Device(name="A100", memory=80 * GB)


def test_of_several_the_smallest_that_workers_may_get() -> None:
    groups = [{"gpus": 8, "accelerator_type": kind} for kind in ("H100", "T4", "B200")]
    assert device(ON_GPU, groups) == Device(name="T4", memory=16 * GB)
    assert device({**ON_GPU, "accelerator_type": "B200"}, groups) == Device(name="B200", memory=180 * GB)


def test_a_type_that_only_the_job_names() -> None:
    assert device({**ON_GPU, "accelerator_type": "L4"}) == Device(name="L4", memory=24 * GB)
    assert device(ON_GPU) is None
    assert device(ON_GPU, [{"gpus": 8, "accelerator_type": "unheard-of"}]) is None


def test_this_machine() -> None:
    assert device(ON_GPU, local=True) == A_GPU
    assert device({"workers": 4}, local=True) == Device(name="CPU", memory=4 * GB)


@pytest.mark.parametrize(("scaling", "memory"), [({}, 8), ({"memory_per_worker": "3GB"}, 3)])
def test_a_share_of_a_node(scaling: dict[str, Any], memory: int) -> None:
    assert device({"workers": 16, **scaling}, [{}]) == Device(name="CPU", memory=memory * GB)


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("T4", False),
        ("Tesla V100-SXM2-16GB", False),
        ("H100", True),
        ("NVIDIA A100-SXM4-80GB", True),
        (None, True),
    ],
)
def test_flash_attention_runs_from_ampere_on(name: str | None, runs: bool) -> None:
    assert runs_flash(name) == runs
