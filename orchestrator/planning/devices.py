"""How much memory the device of a worker has."""

from __future__ import annotations

import re
from collections.abc import Callable

from orchestrator.section import Section
from orchestrator.spec.profile import ClusterProfile, NodeGroup
from orchestrator.spec.scaling import ScalingSpec

_GB = 10**9

DEVICE_MEMORY: dict[str, int] = {
    "B300": 288 * _GB,
    "B200": 180 * _GB,
    "GB200": 186 * _GB,
    "GH200": 96 * _GB,
    "H200": 141 * _GB,
    "H100": 80 * _GB,
    "H20": 96 * _GB,
    "A100-80G": 80 * _GB,
    "A100-40G": 40 * _GB,
    "A100": 40 * _GB,
    "A10G": 24 * _GB,
    "A10": 24 * _GB,
    "L40S": 48 * _GB,
    "L4": 24 * _GB,
    "V100": 16 * _GB,
    "P100": 16 * _GB,
    "T4": 16 * _GB,
    "AMD-Instinct-MI300X-OAM": 192 * _GB,
    "AMD-Instinct-MI250X-MI250": 64 * _GB,
}
"""Memory by the accelerator types that Ray knows, as sold; of those that were sold in several sizes the smallest.
``node_groups.accelerator_memory`` of a profile goes before it."""


_WITHOUT_FLASH = frozenset({"V100", "P100", "T4"})
"""Older than Ampere: flash attention (Dao 2023, arXiv:2307.08691) does not run there."""


def runs_flash(accelerator_type: str | None) -> bool:
    """Whether flash attention runs on GPUs of the type, or of a driver's name for it; one that is not known is taken for a newer one."""
    return _WITHOUT_FLASH.isdisjoint(re.findall(r"\w+", accelerator_type or ""))


class Device(Section):
    """What a worker computes on."""

    name: str
    """An accelerator type, or ``CPU``."""
    memory: int
    """Bytes that a worker may take."""


class ThisMachine(Section):
    """What is looked up where the cluster is this machine."""

    memory: int
    """Bytes of main memory."""
    gpu: Device | None = None
    """The GPU with least memory; None where there is none."""


def device_of(
    scaling: ScalingSpec, profile: ClusterProfile, this_machine: Callable[[], ThisMachine]
) -> Device | None:
    """The device of the workers; of several that they may get, that with least memory. None where it is not known."""
    if not scaling.gpus_per_worker:
        return _share_of_host(scaling, profile, this_machine)
    groups = [group for group in profile.node_groups if _can_take(scaling, group)]
    known = [device for group in groups if (device := _gpu_of(group, scaling)) is not None]
    if known:
        return min(known, key=lambda device: device.memory)
    if scaling.accelerator_type in DEVICE_MEMORY:
        return Device(name=scaling.accelerator_type, memory=DEVICE_MEMORY[scaling.accelerator_type])
    return this_machine().gpu if profile.kind == "local" else None


def _can_take(scaling: ScalingSpec, group: NodeGroup) -> bool:
    labels = scaling.node_labels.items() <= group.labels.items()
    return bool(group.gpus) and labels and scaling.accelerator_type in (None, group.accelerator_type)


def _gpu_of(group: NodeGroup, scaling: ScalingSpec) -> Device | None:
    name = group.accelerator_type or scaling.accelerator_type
    memory = group.accelerator_memory or DEVICE_MEMORY.get(name or "")
    return Device(name=name or f"GPU of {group.name}", memory=memory) if memory else None


def _share_of_host(
    scaling: ScalingSpec, profile: ClusterProfile, this_machine: Callable[[], ThisMachine]
) -> Device | None:
    if scaling.memory_per_worker:
        return Device(name="CPU", memory=scaling.memory_per_worker)
    shares = [
        int(group.memory / max(1, min(scaling.most_workers, int(group.cpus / scaling.cpus_per_worker))))
        for group in profile.node_groups
    ]
    if shares:
        return Device(name="CPU", memory=min(shares))
    if profile.kind != "local":
        return None
    return Device(name="CPU", memory=this_machine().memory // scaling.most_workers)
