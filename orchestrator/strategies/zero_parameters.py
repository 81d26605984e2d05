"""Stage 3 of ZeRO: each block's parameters are given to DeepSpeed, which keeps a share, before the next take memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.state import StateRange
from orchestrator.strategies.blocks import blocks_of
from orchestrator.strategies.materialize import Materializer


@dataclass(frozen=True)
class FrozenShare:
    """This rank's fp32 range of a parameter that is not trained: DeepSpeed keeps no master of those."""

    parameter: Any
    name: str
    start: int
    """First element in the flattened parameter."""
    values: Tensor
    """The range; the very one that is computed with, where that is fp32 too."""

    def state(self) -> StateRange:
        """As a checkpoint keeps it."""
        return StateRange("parameter", self.name, tuple(self.parameter.ds_shape), self.start, self.values)

    def replace(self, values: Tensor) -> None:
        """Take other values."""
        self.values.copy_(values)
        self.parameter.ds_tensor.narrow(0, 0, len(values)).copy_(values)


def converter(deepspeed: Any, config: Mapping[str, Any]) -> Any:
    """What makes parameters DeepSpeed's, for ``partition``; knows the config's offload and its groups of ranks."""
    deepspeed.init_distributed(dist_init_required=False)
    return deepspeed.zero.Init(module=nn.Module(), config_dict_or_path=dict(config))


def partition(
    name: str, module: nn.Module, materializer: Materializer, converter: Any, dtype: torch.dtype
) -> list[FrozenShare]:
    """Give a module's parameters to DeepSpeed, block by block. Collective.

    Args:
        name: of the module in its family.
        module: with its blocks as the family declares them.
        materializer: gives a block memory.
        converter: ``deepspeed.zero.Init``, which takes rank 0's values and keeps this rank's share of them.
        dtype: that parameters are computed in.

    Returns:
        What this rank has of parameters that are not trained.

    """
    values: dict[nn.Parameter, Tensor] = {}
    for part in (*blocks_of(module), module):
        materializer.fill(part)
        for parameter in part.parameters():
            if not hasattr(parameter, "ds_id"):
                exact = parameter.detach()
                parameter.data = exact.to(dtype)
                converter._convert_to_zero_parameters([parameter])
                if not parameter.requires_grad:
                    values[parameter] = _share_of_values(parameter, exact)
                del exact
    return [
        FrozenShare(parameter, f"{name}/{path}", share_of(parameter)[0], values[parameter])
        for path, parameter in module.named_parameters()
        if parameter in values
    ]


def _share_of_values(parameter: Any, exact: Tensor) -> Tensor:
    start, count = share_of(parameter)
    shard: Tensor = parameter.ds_tensor
    if shard.dtype == exact.dtype:
        return shard.narrow(0, 0, count)
    return exact.reshape(-1)[start : start + count].to("cpu", copy=True)


def forget_second_copies(module: nn.Module) -> None:
    """Of parameters that have changed by other means than an update; the next forward makes them again."""
    parameter: Any
    for parameter in module.parameters():
        parameter.ds_secondary_tensor = None


def forget_groups() -> None:
    """DeepSpeed keeps the groups of second copies for the process, and takes them for the next engine's too."""
    from deepspeed.utils import groups

    groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None


def share_of(parameter: Any) -> tuple[int, int]:
    """(first element, how many) of the flattened parameter that this rank has."""
    size, total = parameter.ds_tensor.ds_numel, parameter.ds_numel
    start = min(parameter.ds_zero_partition_rank * size, total)
    return start, min(size, total - start)
