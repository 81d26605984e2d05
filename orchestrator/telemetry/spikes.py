"""Steps whose loss is far above that of the steps before them, found on the device, where nobody waits for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.errors import UserCodeError
from orchestrator.models.base import Sums
from orchestrator.spec.recovery import SpikeSpec
from orchestrator.telemetry import reading


@dataclass(frozen=True)
class Spike:
    """One of them."""

    step: int
    phase: str
    loss: float
    mean: float
    """Of the steps before it."""

    def told(self) -> str:
        """In a few words."""
        return (
            f"step {self.step}: the loss of {self.phase} is {self.loss:.6g}, after a mean of {self.mean:.6g}"
        )


class SpikeWatch:
    """Looks at each step's loss over all workers; at nothing where the job asks for nothing."""

    def __init__(
        self,
        spec: SpikeSpec | None,
        phases: Sequence[str] = (),
        device: torch.device | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            spec: what a spike is.
            phases: of the objective.
            device: of the losses.
            state: of a checkpoint, to go on from.
        """
        self.spec, self._phases, self._device = spec, tuple(phases), device
        self._sums = {phase: torch.zeros(2, dtype=torch.float64, device=device) for phase in phases}
        window, rows = (spec.window, spec.most + 1) if spec else (1, 1)
        state = state or {}
        self._recent = self._tensor(state.get("recent", [[0.0] * window for _ in phases]))
        """(phases, window): losses of the last steps that were none."""
        self._seen = self._tensor(state.get("seen", [0.0] * len(phases)))
        """(phases,): how many there were."""
        self.count = int(state.get("left_out", 0))
        """Updates that were left out, as far as it was read."""
        self._found = torch.zeros(rows, 4, dtype=torch.float64, device=device)
        """Step, number of the phase, loss and mean of those since the last reading."""
        self._number = torch.zeros((), dtype=torch.float64, device=device)

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=self._device)

    @property
    def rewinds(self) -> bool:
        """Whether a spike is answered by going back."""
        return self.spec is not None and self.spec.action == "rewind"

    def add(self, phase: str, sums: Sums) -> None:
        """Add one micro-batch's loss."""
        if self.spec is not None:
            both = (sums.loss.detach(), torch.as_tensor(sums.count, device=self._device))
            self._sums[phase] += torch.stack([part.double().reshape(()) for part in both])

    def look(self, step: int, phase: str) -> Tensor | None:
        """Collective. Whether the step that was added is a spike, () bool on the device, where that leaves its update out."""
        if self.spec is None:
            return None
        row, sums = self._phases.index(phase), self._sums[phase]
        if dist.is_initialized():
            dist.all_reduce(sums)
        loss = sums[0] / sums[1].clamp(min=1e-12)
        mean = self._recent[row].mean()
        bound = mean + (self.spec.factor - 1) * mean.abs()
        is_spike = (self._seen[row] >= self.spec.window) & ~(loss <= bound)  # what is no number is one too
        place = torch.arange(self.spec.window, device=self._device)
        is_new = (place == self._seen[row] % self.spec.window) & ~is_spike
        self._recent[row] = torch.where(is_new, loss, self._recent[row])
        self._seen[row] += ~is_spike
        values = torch.stack([torch.full_like(loss, step), torch.full_like(loss, row), loss, mean])
        at = torch.arange(len(self._found), device=self._device) == self._number
        self._found = torch.where((at & is_spike)[:, None], values, self._found)
        self._number += is_spike
        self._sums[phase] = torch.zeros_like(sums)
        return is_spike if self.spec.action == "skip_batch" else None

    def read(self) -> list[Spike]:
        """Those since the last reading; the same on every rank. Waits for the device.

        Raises:
            UserCodeError: one ends the run, or they are too many.
        """
        if self.spec is None:
            return []
        number, *numbers = reading.read(torch.cat([self._number.reshape(1), self._found.flatten()]))
        rows = [numbers[at : at + 4] for at in range(0, 4 * min(int(number), len(self._found)), 4)]
        spikes = [Spike(int(step), self._phases[int(phase)], loss, mean) for step, phase, loss, mean in rows]
        self._number = torch.zeros_like(self._number)
        if spikes and self.spec.action == "fail":
            raise UserCodeError(
                f"{spikes[0].told()} of {self.spec.window} steps, more than recovery.on_spike.factor ({self.spec.factor:g})"
                f" allows: look at its batch; resume with --set recovery.leave_out=[{spikes[0].step}] to go on without it, or"
                " use recovery.on_spike.action: rewind"
            )
        if self.spec.action == "skip_batch":
            self.count += int(number)
            if self.count > self.spec.most:
                raise UserCodeError(too_many(self.spec, spikes[-1]))
        return spikes

    def state(self) -> dict[str, Any]:
        """For a checkpoint; spikes have been read before. Waits for the device."""
        if self.spec is None:
            return {}
        window = self.spec.window
        values = reading.read(torch.cat([self._recent.flatten(), self._seen]))
        rows = [values[row * window : (row + 1) * window] for row in range(len(self._phases))]
        return {"recent": rows, "seen": values[len(rows) * window :], "left_out": self.count}


def too_many(spec: SpikeSpec, last: Spike) -> str:
    """One sentence."""
    return (
        f"{last.told()}: more than recovery.on_spike.most ({spec.most}) batches would be left out, so it is not single batches"
        " that are to blame; lower training.optimizer.learning_rate, or look at the data"
    )
