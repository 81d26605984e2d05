"""The way of batches to a GPU: in a stream of their own, so that they travel while it computes the step before."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import torch
from torch import Tensor

_PICTURES = 4
"""Dimensions of a batch of them."""


class Copies:
    """Copies to one device. The loop asks for a step while the device is still at the last one, so what is begun aside
    runs beside its kernels.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @cached_property
    def _stream(self) -> torch.cuda.Stream | None:
        """None without a driver, as on fake tensors."""
        return torch.cuda.Stream(self._device) if torch.cuda.is_available() else None

    def aside(self) -> AbstractContextManager[object]:
        """Around copies that wait for no kernel."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def begun(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, once its copy has ended."""
        return tensor.to(self._device, non_blocking=True)

    def wait_for(self, tensors: Iterable[Tensor]) -> None:
        """Have kernels that are launched from here on wait for what was begun aside; the host waits for nothing."""
        if self._stream is None:
            return
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(
                computing
            )  # its memory is the other stream's, which must not use it again before


def for_kernels(tensor: Tensor) -> Tensor:
    """Bytes as fractions, to the bit as on a CPU, and pictures in the order that cuDNN's fast kernels read."""
    if tensor.dtype == torch.uint8:
        tensor = tensor.float() * (1 / 255)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == _PICTURES else tensor
