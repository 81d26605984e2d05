"""Which step's gradient was no number first, why, and what a person can do about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from orchestrator.models.base import Batch, Objective
from orchestrator.spec.training import TrainingSpec
from orchestrator.strategies.base import Update
from orchestrator.telemetry import reading

_SAMPLES_TRIED = 256
"""Most samples of a rank that are tried one by one."""
_SAMPLES_NAMED = 5


@dataclass(frozen=True)
class Divergence:
    """The first step that can't go on."""

    step: int
    phase: str
    norm: float


class FirstDivergence:
    """Remembers it on the device, where nobody waits for it."""

    def __init__(self, phases: Sequence[str], device: torch.device) -> None:
        self._phases = phases
        self._found = torch.zeros(3, dtype=torch.float64, device=device)
        """Step (0: none), number of the phase, norm."""

    def note(self, step: int, phase: str, update: Update) -> None:
        """What became of a step."""
        diverged, norm = (value.to(self._found.device) for value in (update.diverged, update.norm))
        is_first = diverged & (self._found[0] == 0)
        self._found[0].masked_fill_(is_first, step)
        self._found[1].masked_fill_(is_first, self._phases.index(phase))
        self._found[2].copy_(torch.where(is_first, norm, self._found[2]))

    def read(self) -> Divergence | None:
        """What was found; the same on every rank. Waits for the device."""
        step, phase, norm = reading.read(self._found)
        return Divergence(int(step), self._phases[int(phase)], norm) if step else None


def samples_to_blame(
    objective: Objective, phase: str, modules: Mapping[str, nn.Module], micros: Sequence[Batch]
) -> list[int]:
    """Ids of samples whose own loss is no finite number, in order. Collective: sharded forwards are.

    None where that holds for all that were tried: then it is the model that is to blame, and no sample.
    """
    found: list[int] = []
    tried = 0
    for micro in micros:
        if "sample_id" not in micro:
            break
        for index, sample in enumerate(micro["sample_id"].tolist()[: _SAMPLES_TRIED - tried]):
            tried += 1
            alone = {name: tensor[index : index + 1] for name, tensor in micro.items()}
            if not torch.isfinite(objective.loss(phase, modules, alone).loss):
                found.append(sample)
    of_ranks = [(tried, found)]
    if dist.is_initialized():
        of_ranks = [(0, [])] * dist.get_world_size()
        dist.all_gather_object(of_ranks, (tried, found))
    every = sorted(sample for _, of_rank in of_ranks for sample in of_rank)
    return [] if len(every) == sum(count for count, _ in of_ranks) else [s for s in every if s >= 0]


def explained(
    found: Divergence,
    training: TrainingSpec,
    blamed: Sequence[int],
    place: Callable[[int], str],
) -> str:
    """One sentence.

    Args:
        found: whose gradient it is, and when.
        training: what the job sets already is not advised.
        blamed: samples whose own loss is no number.
        place: where a sample lies.

    """
    what = f"step {found.step}: the gradient of {found.phase} is {found.norm}"
    if blamed:
        named = "; ".join(place(sample) for sample in blamed[:_SAMPLES_NAMED])
        more = len(blamed) - _SAMPLES_NAMED
        return (
            f"{what}, since the loss of some samples is no finite number ({named}"
            f"{f'; and {more} more' if more > 0 else ''}): mend or leave out these rows"
        )
    return f"{what}, so the loss is no longer a number; {' or '.join(_advice(found.step, found.phase, training))}"


def _advice(step: int, phase: str, training: TrainingSpec) -> list[str]:
    own = phase in training.phase_optimizers
    field = f"training.phase_optimizers.{phase}" if own else "training.optimizer"
    optimizer = training.phase_optimizers.get(phase, training.optimizer)
    advice = [f"lower {field}.learning_rate (it is {optimizer.learning_rate:g})"]
    if training.clip_grad_norm is None:
        advice.append("set training.clip_grad_norm")
    if step > training.schedule.warmup_steps == 0:
        advice.append("set training.schedule.warmup_steps")
    if training.precision != "fp32":
        advice.append("use training.precision: fp32")
    return advice
