"""Buffers that state is copied into, so that training goes on while they are written. Reused from save to save.

From a GPU copies run on a stream of their own, beside the kernels of the next forward and backward. Nothing here opens a
context on a GPU that the process does not use already.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ALIGNMENT = 64
_CHUNK_BYTES = 64 << 20
"""A power of two: torch rounds pinned memory up to the next one, so that larger buffers could take twice their size."""


class Staging:
    """Grows to the bytes that this rank saves, and no further; pinned where state comes from a GPU."""

    def __init__(self) -> None:
        self._chunks: list[Tensor] = []
        self._chunk = 0
        self._used = 0
        self._device: int | None = None
        self._ready: torch.cuda.Event | None = None
        self._stream: torch.cuda.Stream | None = None

    def restart(self) -> None:
        """Give all buffers free: what was copied before must have been written."""
        self._chunk, self._used = 0, 0

    def follow(self) -> None:
        """Let the copies to come see what the caller's stream has been given to do so far."""
        if torch.cuda.is_initialized():
            self._device = torch.cuda.current_device()
            self._ready = torch.cuda.Event()
            self._ready.record()

    def enter_thread(self) -> None:
        """First thing of a thread that copies: a new thread's GPU is the first one, whose context it would open."""
        if self._device is not None:
            torch.cuda.set_device(self._device)

    @torch.no_grad()
    def copy(self, values: Tensor) -> list[Tensor]:
        """A copy of a one-dimensional tensor, as bytes on the CPU in pieces. From a GPU it is complete after ``finish``."""
        pieces: list[Tensor] = []
        with torch.cuda.stream(self._stream_for(values)):  # without effect where there is none
            while len(values):
                count = min(len(values), self._room(pinned=values.is_cuda) // values.element_size())
                piece = self._take(count * values.element_size())
                piece.view(values.dtype).copy_(values[:count], non_blocking=values.is_cuda)
                pieces.append(piece)
                values = values[count:]
        return pieces

    def finish(self) -> None:
        """Wait until all copies from a GPU have arrived."""
        if self._stream is not None:
            self._stream.synchronize()

    def _stream_for(self, values: Tensor) -> torch.cuda.Stream | None:
        if not values.is_cuda:
            return None
        if self._stream is None:
            self._stream = torch.cuda.Stream(values.device)
        if self._ready is not None:
            self._stream.wait_event(self._ready)
        # its memory may be given to another tensor as soon as nobody holds it, while the copy still reads
        values.record_stream(self._stream)
        return self._stream

    def _room(self, *, pinned: bool) -> int:
        """Bytes left in the buffer at hand, at least one number's: the next buffer's where it is full."""
        self._used = -(-self._used // _ALIGNMENT) * _ALIGNMENT
        if self._chunk < len(self._chunks) and self._used >= _CHUNK_BYTES:
            self._chunk, self._used = self._chunk + 1, 0
        if self._chunk == len(self._chunks):
            self._chunks.append(torch.empty(_CHUNK_BYTES, dtype=torch.uint8, pin_memory=pinned))
        return _CHUNK_BYTES - self._used

    def _take(self, size: int) -> Tensor:
        start, self._used = self._used, self._used + size
        return self._chunks[self._chunk][start : start + size]
