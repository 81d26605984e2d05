"""Memory and first values for modules that were built without, one part after another."""

from __future__ import annotations

import contextlib
import ctypes

import torch
from torch import Tensor, nn

from orchestrator.models.deferred import FirstValues


class Materializer:
    """Puts a part of a model on the device, so that an engine can shard it before the next part takes memory.

    Parts that have their numbers already are only moved.
    """

    def __init__(self, values: FirstValues | None, device: torch.device) -> None:
        """
        Args:
            values: first values of modules that were built without memory; None where all have their numbers.
            device: where parameters and buffers are to be.

        """
        self._values, self._device = values, device
        self._done: set[nn.Module | nn.Parameter] = set()

    def value(self, tensor: Tensor) -> Tensor:
        """The first value of a parameter or buffer, as it was built, in the format that it was built in."""
        if not tensor.is_meta:
            return tensor.detach()
        assert self._values is not None, "modules without memory come with their first values"
        return self._values.of(tensor)

    def fill(self, part: nn.Module) -> list[Tensor]:
        """The parameters and buffers of ``part`` that no earlier part had, now on the device.

        A parameter without memory is replaced by another one; those that are tied within the part still are.
        """
        made: dict[nn.Parameter, nn.Parameter] = {}
        filled: list[Tensor] = []
        for module in part.modules():
            if module in self._done:
                continue
            self._done.add(module)
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    if parameter not in made:
                        made[parameter] = self._with_memory(parameter)
                        filled.append(made[parameter])
                    setattr(module, name, made[parameter])
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    filled.append(self.value(buffer).to(self._device))
                    setattr(module, name, filled[-1])
        return filled

    def _with_memory(self, parameter: nn.Parameter) -> nn.Parameter:
        assert parameter not in self._done, "two parts, each to be sharded by itself, share a parameter"
        self._done.add(parameter)
        if parameter.is_meta:
            return nn.Parameter(self.value(parameter).to(self._device), requires_grad=parameter.requires_grad)
        parameter.data = parameter.data.to(self._device)
        return parameter


def release_freed_memory() -> None:
    """Give what has been freed back to the system, where the C library would keep it: blocks and shares that came and
    went leave gaps that are of no use to the large tensors of a step.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has no such call, and keeps less
        ctypes.CDLL(None).malloc_trim(0)
