"""Whether a plan fits its device, and what would."""

from __future__ import annotations

from orchestrator.planning.devices import Device
from orchestrator.planning.peak import PARTS, Peak
from orchestrator.section import Section, format_bytes

_FRAGMENTED = 0.05
"""Of a peak: what an allocator can't use because it lies in pieces."""
_LIBRARIES = {"gpu": 1_500_000_000, "cpu": 700_000_000}
"""What a worker's process takes beside tensors: CUDA's context, kernels, cuBLAS's and NCCL's buffers; libraries."""


class Change(Section):
    """Something to change in the job, so that it fits."""

    overrides: tuple[str, ...]
    """As ``--set`` takes them."""
    needed: int
    """Bytes of a worker then."""
    cost: str
    """What is to be expected of it."""


class Verdict(Section):
    """A plan's peak beside its device."""

    workers: int
    """Workers."""
    device: Device
    """What each computes on."""
    peak: Peak
    """The most that one of them holds."""
    changes: tuple[Change, ...] = ()
    """Where it does not fit: the nearest changes with which it does, cheapest first."""
    least: int | None = None
    """Where none of them makes it fit: bytes of a worker where any number of workers share the model."""

    @property
    def needed(self) -> int:
        """Bytes of a worker with all that is not tensors."""
        return needed(self.device, self.peak)

    @property
    def fits(self) -> bool:
        """Whether the device has room for it."""
        return self.needed <= self.device.memory

    @property
    def sentence(self) -> str:
        """``41 GB of 80 GB (H100): fits``."""
        amounts = f"{format_bytes(self.needed)} of {format_bytes(self.device.memory)} ({self.device.name})"
        return f"{amounts}: {'fits' if self.fits else 'does not fit'}"

    def lines(self) -> list[str]:
        """It in a person's words, a line each."""
        parts = [
            f"{part} {format_bytes(size)}" for part in PARTS if (size := getattr(self.peak, part)) >= 1000
        ]
        rest = self.needed - self.peak.total
        away = f"; {format_bytes(self.peak.offloaded)} in the host's memory" if self.peak.offloaded else ""
        found = [
            f"{self.workers} workers, each {self.sentence}",
            f"at its peak: {', '.join(parts)}, libraries and fragments {format_bytes(rest)}{away}",
        ]
        if not self.fits:
            found += [
                f"would fit: {' '.join(f'--set {one}' for one in change.overrides)}"
                f"  ({format_bytes(change.needed)}; {change.cost})"
                for change in self.changes
            ] or [
                too_large(self.device, self.least)
                or "none of the usual changes makes it fit: take a smaller model or larger devices"
            ]
        return found


def too_large(device: Device, least: int | None) -> str:
    """A sentence where not even one block fits, however many workers share the model; empty where one does."""
    if least is None or least <= device.memory:
        return ""
    return (
        f"one block does not fit: gathered whole, with the activations of one sample, it takes {format_bytes(least)} of"
        f" {format_bytes(device.memory)} ({device.name}), which more workers don't divide; take narrower layers or larger devices"
    )


def needed(device: Device, peak: Peak) -> int:
    """Bytes of a worker: the peak, what lies in pieces, and libraries."""
    kind = "cpu" if device.name == "CPU" else "gpu"
    return int(peak.total * (1 + _FRAGMENTED)) + _LIBRARIES[kind]
