"""Buffers that state is copied into, so that training goes on while they are written. Reused from save to save.

From a GPU copies run on a stream of their own, beside the kernels of the next forward and backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ALIGNMENT = 64
_CHUNK_BYTES = 64 << 20


class Staging:
    """Grows to the bytes that this rank saves, and no further; pinned where state comes from a GPU."""

    def __init__(self) -> None:
        self._chunks: list[Tensor] = []
        self._chunk = 0
        self._used = 0
        self._stream = torch.cuda.Stream() if torch.cuda.is_available() else None

    def restart(self) -> None:
        """Give all buffers free: what was copied before must have been written."""
        self._chunk, self._used = 0, 0

    def follow(self) -> None:
        """Let the copies to come see what the caller's stream has been given to do so far."""
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream())

    @torch.no_grad()
    def copy(self, values: Tensor) -> Tensor:
        """A copy of a one-dimensional tensor, as bytes on the CPU. From a GPU it is complete after ``finish``."""
        size = values.numel() * values.element_size()
        place = self._reserve(size, pinned=values.is_cuda)
        with torch.cuda.stream(self._stream):  # without effect where there is none
            place.view(values.dtype).copy_(values, non_blocking=values.is_cuda)
        return place

    def finish(self) -> None:
        """Wait until all copies from a GPU have arrived."""
        if self._stream is not None:
            self._stream.synchronize()

    def _reserve(self, size: int, *, pinned: bool) -> Tensor:
        while self._chunk < len(self._chunks):
            start = -(-self._used // _ALIGNMENT) * _ALIGNMENT
            if start + size <= len(self._chunks[self._chunk]):
                self._used = start + size
                return self._chunks[self._chunk][start : start + size]
            self._chunk, self._used = self._chunk + 1, 0
        self._chunks.append(torch.empty(max(size, _CHUNK_BYTES), dtype=torch.uint8, pin_memory=pinned))
        self._used = size
        return self._chunks[-1][:size]
