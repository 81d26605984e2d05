"""A process group of one, for libraries that need a group where there is but one worker."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore


class SingleProcessGroup:
    """Initializes torch.distributed for this process alone, unless it is initialized; needs no port or file."""

    def __init__(self, device: torch.device) -> None:
        """
        Args:
            device: where tensors lie; a GPU's are exchanged by NCCL, as between several workers.
        """
        self._is_ours = not dist.is_initialized()
        if self._is_ours:
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)

    def close(self) -> None:
        """Destroy the group, where it was made here. Idempotent."""
        if self._is_ours and dist.is_initialized():
            dist.destroy_process_group()
        self._is_ours = False
