"""Where the time went: each second of the loop belongs to one named part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from orchestrator.planning.plan import Plan

PARTS = ("data_wait", "forward_backward", "optimizer", "checkpoint", "evaluate", "other")
"""What a step is made of. ``other`` is what no part claims: logging, the stop check, Python itself."""
_RANKS_SHOWN = 8


class Meter:
    """Adds up wall seconds by part, since the start and since the last reading."""

    def __init__(self) -> None:
        self.total = dict.fromkeys(PARTS, 0.0)
        self._recent = dict.fromkeys(PARTS, 0.0)
        self._last_reading = time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge the time inside to ``name``. Parts don't nest."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._recent[name] += time.perf_counter() - start

    def read(self) -> dict[str, float]:
        """Seconds by part since the last reading; they add up to the wall time between the two."""
        now = time.perf_counter()
        recent = self._recent
        recent["other"] += max(0.0, now - self._last_reading - sum(recent.values()))
        for name, seconds in recent.items():
            self.total[name] += seconds
        self._recent = dict.fromkeys(PARTS, 0.0)
        self._last_reading = now
        return recent


PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "T4": 65.0,
}
"""Dense 16-bit tensor-core peak of one device by a part of its name, from NVIDIA's data sheets (TFLOP/s)."""


def throughput(
    plan: Plan, samples_per_second: float, tokens_per_second: float, device: torch.device
) -> dict[str, float]:
    """Rates of all workers together, and the share of the devices' peak that the model's own FLOPs are (MFU).

    MFU is there only for 16-bit training on a device whose peak is known.
    """
    values = {"perf/samples_per_second": samples_per_second}
    if tokens_per_second:
        values["perf/tokens_per_second"] = tokens_per_second
    if plan.flops_per_sample:
        tflops = plan.flops_per_sample * samples_per_second / 1e12
        values["perf/model_tflops_per_second"] = tflops
        if device.type == "cuda" and plan.job.training.precision != "fp32":
            import torch

            name = torch.cuda.get_device_name(device)
            peak = next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
            if peak is not None:
                values["perf/mfu"] = tflops / (peak * plan.world_size)
    return values


def data_waits(share: float, device: torch.device) -> dict[str, float]:
    """Collective. Shares of the time that ranks waited for data: the largest, and by rank those that waited most.

    One rank's slow source holds all others up, but in their collectives, where their own waits don't show it.
    """
    import torch
    import torch.distributed as dist

    if not dist.is_initialized() or dist.get_world_size() == 1:
        return {"data/wait_share": share}
    own = torch.tensor([share], dtype=torch.float64, device=device)
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    shares = torch.cat(every).tolist()
    most = sorted(range(len(shares)), key=lambda rank: -shares[rank])[:_RANKS_SHOWN]
    return {
        "data/wait_share": shares[most[0]],
        **{f"data/wait_share_rank_{rank}": shares[rank] for rank in sorted(most)},
    }
