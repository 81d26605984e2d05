"""State that every rank holds whole: dividing it for a save, comparing and leveling it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.state import StateRange

Named = tuple[str, str, Tensor]
"""(kind, name, whole tensor)."""


def rank_and_world_size() -> tuple[int, int]:
    """The process's rank and the number of ranks: (0, 1) without torch.distributed."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def persistent_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    """The buffers that belong to the module's state (running statistics), not the ones it can rebuild."""
    kept = module.state_dict().keys()
    return [(name, buffer) for name, buffer in module.named_buffers() if name in kept]


class Buffers:
    """A module's persistent buffers, step after step: which they are is found out once, since a state dict takes
    milliseconds to make.
    """

    def __init__(self, module: nn.Module) -> None:
        self._held: list[tuple[dict[str, Tensor | None], str]] = []
        for path, _ in persistent_buffers(module):
            owner, _, name = path.rpartition(".")
            self._held.append((module.get_submodule(owner)._buffers, name))

    def now(self) -> list[Tensor]:
        """As they are."""
        return [buffer for buffers, name in self._held if (buffer := buffers[name]) is not None]


def share_of(tensors: Sequence[Named], rank: int, world_size: int) -> Iterator[StateRange]:
    """The rank's contiguous share of all elements, so that over all ranks each is written once."""
    total = sum(tensor.numel() for _, _, tensor in tensors)
    begin, end = total * rank // world_size, total * (rank + 1) // world_size
    position = 0
    for kind, name, tensor in tensors:
        start, stop = max(begin - position, 0), min(end - position, tensor.numel())
        if start < stop:
            values = tensor.detach().reshape(-1)[start:stop]
            yield StateRange(kind, name, tuple(tensor.shape), start, values, until_update=kind != "buffer")
        position += tensor.numel()


_PIECE = 2**19
"""Numbers that are compared at once: 64-bit copies of them take 4 MB."""


def broadcast_from_rank_zero(tensors: Sequence[Tensor]) -> None:
    """Give every rank rank 0's values. Collective; tensors of one dtype travel together."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    with torch.no_grad():
        for group in by_dtype.values():
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            dist.broadcast(flat, src=0)
            for tensor, values in zip(group, flat.split([t.numel() for t in group]), strict=True):
                tensor.copy_(values.reshape(tensor.shape))


def first_difference(tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None = None) -> str | None:
    """Collective: the first tensor (by the mapping's order) whose bits are not equal on all ranks, or None.

    With a ``group`` they are compared within each group, and all ranks have the same answer.

    Compares two 64-bit sums of each tensor's bits, one of them weighted by place, so little is exchanged.
    """
    if not tensors or rank_and_world_size()[1] == 1:
        return None
    low = torch.stack([_checksum(tensor) for tensor in tensors.values()])
    high = low.clone()
    dist.all_reduce(low, dist.ReduceOp.MIN, group=group)
    dist.all_reduce(high, dist.ReduceOp.MAX, group=group)
    differs = (low != high).any(dim=1).to(torch.int32)
    if group is not None:
        dist.all_reduce(differs, dist.ReduceOp.MAX)
    differing = differs.nonzero()
    return list(tensors)[int(differing[0])] if len(differing) else None


def _checksum(tensor: Tensor) -> Tensor:
    """Two int64 that change when a bit or the order of elements changes (products wrap), in some MB beside the tensor."""
    flat = tensor.detach().reshape(-1)
    if flat.dtype == torch.bool:
        flat = flat.to(torch.uint8)
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    sums, place = torch.zeros(2, dtype=torch.int64, device=flat.device), 1
    for piece in flat.view(integer).split(_PIECE):
        bits = piece.to(torch.int64)
        places = torch.arange(place, place + len(bits), device=bits.device)
        sums += torch.stack([bits.sum(), (bits * places.mul_(-7046029254386353131).add_(1)).sum()])
        place += len(bits)
    return sums
