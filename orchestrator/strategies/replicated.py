"""State that every rank holds whole: dividing it for a save, putting it back, comparing and levelling it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.errors import CheckpointError
from orchestrator.strategies.base import StateRange, StateReader

Named = tuple[str, str, Tensor]
"""(kind, name, whole tensor)."""


def rank_and_world_size() -> tuple[int, int]:
    """The process's rank and the number of ranks: (0, 1) without torch.distributed."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def persistent_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that belong to the module's state (running statistics), not the ones it can rebuild."""
    kept = module.state_dict().keys()
    return ((name, buffer) for name, buffer in module.named_buffers() if name in kept)


def share_of(tensors: Sequence[Named], rank: int, world_size: int) -> Iterator[StateRange]:
    """The rank's contiguous share of all elements, so that over all ranks each is written once."""
    total = sum(tensor.numel() for _, _, tensor in tensors)
    begin, end = total * rank // world_size, total * (rank + 1) // world_size
    position = 0
    for kind, name, tensor in tensors:
        start, stop = max(begin - position, 0), min(end - position, tensor.numel())
        if start < stop:
            yield StateRange(kind, name, tuple(tensor.shape), start, tensor.detach().reshape(-1)[start:stop])
        position += tensor.numel()


def read_whole(reader: StateReader, kind: str, name: str, like: Tensor) -> Tensor:
    """A whole saved tensor, shaped like ``like``, on the CPU. Raises CheckpointError where it is another's."""
    shape = saved_shape(reader, kind, name)
    if shape != tuple(like.shape):
        raise CheckpointError(
            f"checkpoint: {kind} {name} has shape {shape} and the model's is {tuple(like.shape)};"
            " resume with the model that was saved"
        )
    return reader.read(kind, name, 0, like.numel()).reshape(shape)


def saved_shape(reader: StateReader, kind: str, name: str) -> tuple[int, ...]:
    """The whole shape of a saved tensor. Raises CheckpointError where there is none."""
    saved = reader.tensors()
    if (kind, name) not in saved:
        raise CheckpointError(f"checkpoint: it holds no {kind} {name}; resume with the model that was saved")
    return saved[kind, name][0]


def saved_moments(reader: StateReader, name: str, allowed: Sequence[str]) -> list[str]:
    """Kinds of the optimizer tensors saved for the parameter ``name``. Raises CheckpointError where they are
    another optimizer's.
    """
    kinds = [
        kind
        for kind, saved_name in reader.tensors()
        if saved_name == name and kind not in ("parameter", "buffer")
    ]
    if foreign := set(kinds) - set(allowed):
        raise CheckpointError(
            f"checkpoint: it holds {', '.join(sorted(foreign))} of {name}, which the job's optimizer does not keep;"
            " resume with the optimizer that was saved"
        )
    return kinds


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


def first_difference(tensors: Mapping[str, Tensor]) -> str | None:
    """Collective: the first tensor (by the mapping's order) whose bytes are not equal on all ranks, or None.

    Compares two position-dependent 64-bit sums of each tensor's bits, so little is exchanged.
    """
    if not tensors or rank_and_world_size()[1] == 1:
        return None
    low = torch.stack([_checksum(tensor) for tensor in tensors.values()])
    high = low.clone()
    dist.all_reduce(low, dist.ReduceOp.MIN)
    dist.all_reduce(high, dist.ReduceOp.MAX)
    differing = (low != high).any(dim=1).nonzero()
    return list(tensors)[int(differing[0])] if len(differing) else None


def _checksum(tensor: Tensor) -> Tensor:
    """Two int64 that change when any bit or any two elements' places change (products wrap)."""
    flat = tensor.detach().reshape(-1)
    if flat.dtype == torch.bool:
        flat = flat.to(torch.uint8)
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    bits = flat.view(integer).to(torch.int64)
    place = torch.arange(1, len(bits) + 1, device=bits.device)
    return torch.stack([bits.sum(), (bits * (place * -7046029254386353131 + 1)).sum()])
