"""Memory and first values for modules that were built without, one part after another."""

from __future__ import annotations

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
        self._done: set[int] = set()
        self._made: dict[nn.Parameter, nn.Parameter] = {}

    def value(self, tensor: Tensor) -> Tensor:
        """The first value of a parameter or buffer, as it was built, in the format that it was built in."""
        if not tensor.is_meta:
            return tensor.detach()
        assert self._values is not None, "modules without memory come with their first values"
        return self._values.of(tensor)

    def fill(self, part: nn.Module) -> list[Tensor]:
        """The parameters and buffers of ``part`` that no earlier part had, now on the device.

        A parameter without memory is replaced by another one; those that were tied still are.
        """
        filled: list[Tensor] = []
        for module in part.modules():
            if id(module) in self._done:
                continue
            self._done.add(id(module))
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    filled.append(self._filled(parameter))
                    setattr(module, name, filled[-1])
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    filled.append(self.value(buffer).to(self._device))
                    setattr(module, name, filled[-1])
        return list({id(tensor): tensor for tensor in filled}.values())

    def _filled(self, parameter: nn.Parameter) -> nn.Parameter:
        if not parameter.is_meta:
            parameter.data = parameter.data.to(self._device)
            return parameter
        if parameter not in self._made:
            value = self.value(parameter).to(self._device)
            self._made[parameter] = nn.Parameter(value, requires_grad=parameter.requires_grad)
        return self._made[parameter]
