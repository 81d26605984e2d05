"""Statistics of an evaluation, added up over its batches and then over workers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.models.metrics import Totals


class EvaluationSums:
    """On the device, until the totals are asked for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._rows: dict[str, list[Tensor]] = {}

    def add(self, statistics: Mapping[str, tuple[Tensor, Tensor | None]]) -> None:
        """Add a batch's: see ``models.metrics.Statistics``."""
        for name, (value, count) in statistics.items():
            if count is None:
                self._rows.setdefault(name, []).append(value)
                continue
            for held, part in ((self._sums, value), (self._counts, count)):
                exact = torch.as_tensor(part, dtype=torch.float64, device=self._device)
                held[name] = held[name] + exact if name in held else exact

    def state(self) -> dict[str, Tensor]:
        """This rank's part, on the CPU, as ``restore`` takes it."""
        rows = {name: torch.cat(parts) for name, parts in self._rows.items()}
        held = {"sum": self._sums, "count": self._counts, "rows": rows}
        return {
            f"{kind} {name}": tensor.detach().cpu().contiguous()
            for kind, tensors in held.items()
            for name, tensor in tensors.items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Hold what ``state`` gave, and nothing else."""
        kinds: dict[str, dict[str, Tensor]] = {"sum": {}, "count": {}, "rows": {}}
        for key, tensor in state.items():
            kind, _, name = key.partition(" ")
            kinds[kind][name] = tensor.to(self._device)
        self._sums, self._counts = kinds["sum"], kinds["count"]
        self._rows = {name: [rows] for name, rows in kinds["rows"].items()}

    def totals(self) -> Totals:
        """Collective: the same on every rank. Rows are put together on each of them."""
        names = sorted(self._sums)
        sums, counts = {}, {}
        if names:
            parts = [part for name in names for part in (self._sums[name], self._counts[name])]
            flat = torch.cat([part.detach().reshape(-1) for part in parts])
            if dist.is_initialized():
                dist.all_reduce(flat)
            split = flat.cpu().split([part.numel() for part in parts])
            sums = {name: split[2 * i].reshape(self._sums[name].shape) for i, name in enumerate(names)}
            counts = {name: split[2 * i + 1].item() for i, name in enumerate(names)}
        return Totals(
            sums, counts, {name: _of_all_ranks(torch.cat(self._rows[name])) for name in sorted(self._rows)}
        )


def _of_all_ranks(rows: Tensor) -> Tensor:
    """Collective. The rows (N, ...) of every rank, one after the other, on the CPU."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows.cpu()
    own = torch.tensor([len(rows)], device=rows.device)
    lengths = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, own)
    longest = max(int(length) for length in lengths)
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    every = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(every, padded)
    return torch.cat([part[: int(length)].cpu() for part, length in zip(every, lengths, strict=True)])
