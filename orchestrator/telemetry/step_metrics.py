"""What a training step is measured by, and the names that a person finds it under in the tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.models.base import Objective, Sums
from orchestrator.planning.plan import Plan
from orchestrator.telemetry import reading
from orchestrator.telemetry.device_peaks import peak_tflops

_RANKS_SHOWN = 8


@dataclass(frozen=True)
class OwnTimes:
    """Of one rank, in seconds since the last log."""

    forward: float
    """Of its forward passes."""
    reduction: float | None = None
    """Of its backward passes, after they had computed all of their own: see ``Meter.reduction_seconds``."""


class MetricSums:
    """Sums and counts by name, kept on the device: nothing waits for it until the means are asked for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, tuple[Any, Any]] = {}

    def add(self, metrics: Mapping[str, tuple[Any, Any]]) -> None:
        """Add a micro-batch's: name -> (sum, count)."""
        for name, (value, count) in metrics.items():
            total, counted = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = total + value, counted + count

    def means(self) -> dict[str, float]:
        """Collective. Sum over ranks divided by the count over ranks, by name."""
        names = sorted(self._sums)
        if not names:
            return {}
        flat = [
            torch.as_tensor(part, dtype=torch.float64, device=self._device)
            for name in names
            for part in self._sums[name]
        ]
        both = torch.stack([part.detach().reshape(()) for part in flat])
        if dist.is_initialized():
            dist.all_reduce(both)
        values = reading.read(both)
        return {name: values[2 * i] / max(values[2 * i + 1], 1e-12) for i, name in enumerate(names)}


class StepMetrics(MetricSums):
    """What the steps since the last log came to. Where an objective has several phases, names end in the phase's."""

    def __init__(self, plan: Plan, objective: Objective, device: torch.device) -> None:
        super().__init__(device)
        self._plan = plan
        several = len(objective.phases) > 1
        self._suffixes = {phase: f"_{phase}" if several else "" for phase in objective.phases}
        self._norms: dict[str, Tensor] = {}
        self._steps = self._samples = self._tokens = 0

    def add_loss(self, phase: str, sums: Sums) -> None:
        """Add one micro-batch's loss and metrics."""
        self.add({f"loss{self._suffixes[phase]}": (sums.loss.detach(), sums.count), **sums.metrics})

    def add_update(self, phase: str, norm: Tensor) -> None:
        """Note a phase's gradient norm, (); the last one is what is logged."""
        self._norms[phase] = norm

    def fp16(self, scalars: Mapping[str, float], step: int) -> dict[str, float]:
        """Each phase's loss scale, and how many updates up to a step were not made, from what an engine keeps beside tensors."""
        scaled = [
            (phase, suffix) for phase, suffix in self._suffixes.items() if f"loss_scale/{phase}" in scalars
        ]
        scales = {f"train/loss_scale{suffix}": scalars[f"loss_scale/{phase}"] for phase, suffix in scaled}
        skipped = {
            f"train/skipped_updates{suffix}": step - scalars[f"updates/{phase}"] for phase, suffix in scaled
        }
        return scales | skipped

    def add_step(self, samples: int, tokens: int) -> None:
        """Count a step and its global batch."""
        self._steps, self._samples, self._tokens = (
            self._steps + 1,
            self._samples + samples,
            self._tokens + tokens,
        )

    def named(
        self,
        means: Mapping[str, float],
        *,
        factor: float,
        epoch: float,
        seconds: Mapping[str, float],
        own: OwnTimes,
    ) -> dict[str, float]:
        """Collective. All that is logged of these steps.

        Args:
            means: of losses and metrics, as ``means`` gave them.
            factor: the learning rate's, of the last step.
            epoch: passes over the training data.
            seconds: wall time by part, as the meter gave them.
            own: of this rank.
        """
        wall = sum(seconds.values())
        training = wall - seconds["evaluate"] - seconds["samples"] - seconds["checkpoint"]
        figures = (
            seconds["data_wait"] / wall,
            1e3 * own.forward / self._steps,
            1e3 * (own.reduction or 0.0) / self._steps,
        )
        waits, forwards, reductions = of_ranks(figures, self._device)
        norms = reading.read(torch.stack(list(self._norms.values()))) if self._norms else []
        return {
            **{f"train/{name}": value for name, value in means.items()},
            **{
                f"train/grad_norm{self._suffixes[phase]}": norm
                for phase, norm in zip(self._norms, norms, strict=True)
            },
            "train/learning_rate": factor * self._plan.job.training.optimizer.learning_rate,
            "train/epoch": epoch,
            **{f"system/{part}_ms": 1e3 * seconds[part] / self._steps for part in seconds},
            **throughput(self._plan, self._samples / wall, self._tokens / wall, self._device),
            "system/step_ms": 1e3 * training / self._steps,
            **data_waits(waits),
            **slowest_rank(forwards),
            **(communication(reductions) if own.reduction is not None else {}),
        }


def throughput(
    plan: Plan, samples_per_second: float, tokens_per_second: float, device: torch.device
) -> dict[str, float]:
    """Rates of all workers together, and the share of the devices' peak that the model's own FLOPs are (MFU).

    MFU is there only for 16-bit training on a device whose peak is known.
    """
    values = {"system/samples_per_second": samples_per_second}
    if tokens_per_second:
        values["system/tokens_per_second"] = tokens_per_second
    if plan.flops_per_sample:
        tflops = plan.flops_per_sample * samples_per_second / 1e12
        values["system/model_tflops_per_second"] = tflops
        if device.type == "cuda" and plan.job.training.precision != "fp32":
            name = torch.cuda.get_device_name(device)
            peak = peak_tflops(name)
            if peak is not None:
                values["system/mfu"] = tflops / (peak * plan.world_size)
    return values


def of_ranks(own: Sequence[float], device: torch.device) -> list[list[float]]:
    """Collective. Some figures of each rank: of each figure a list by rank."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [[figure] for figure in own]
    mine = torch.tensor(own, dtype=torch.float64, device=device)
    every = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(every, mine)
    figures = reading.read(torch.cat(every))
    return [figures[number :: len(own)] for number in range(len(own))]


def data_waits(shares: Sequence[float]) -> dict[str, float]:
    """Of the shares of the time that ranks waited for data the largest, and by rank those of the ranks that waited most.

    One rank's slow source holds all others up, but in their collectives, where their own waits don't show it.
    """
    most = sorted(range(len(shares)), key=lambda rank: -shares[rank])[:_RANKS_SHOWN]
    by_rank = {f"system/data_wait_share_rank_{rank}": shares[rank] for rank in sorted(most)}
    return {"system/data_wait_share": shares[most[0]], **(by_rank if len(shares) > 1 else {})}


def slowest_rank(forward_ms: Sequence[float]) -> dict[str, float]:
    """The rank whose forward passes take longest, and by how many milliseconds a step more than those of the median; nothing
    where there is one rank. What a slow rank takes longer the others spend in their collectives.
    """
    if len(forward_ms) == 1:
        return {}
    slowest = max(range(len(forward_ms)), key=lambda rank: forward_ms[rank])
    return {
        "system/slowest_rank": float(slowest),
        "system/slowest_rank_behind_ms": forward_ms[slowest] - median_low(forward_ms),
    }


def communication(reduction_ms: Sequence[float]) -> dict[str, float]:
    """What even the rank that waits least for the others' gradients waits for them, in milliseconds a step: an estimate of what
    the reductions take that no computation hides. What a rank waits longer it waits for a slower one.
    """
    return {"system/communication_ms": min(reduction_ms)}
