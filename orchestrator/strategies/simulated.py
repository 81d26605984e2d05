"""Ranks that are not there: a process that believes it is one of many, on tensors that have shapes and no memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode


@contextmanager
def simulated_rank(world_size: int) -> Iterator[FakeTensorMode]:
    """Inside, this process is rank 0 of ``world_size`` and tensors are fake: nothing is computed, sent or allocated, and
    whoever asks for a tensor's value gets an error.

    The process must not be in a process group. One rank is in none, as it would be without torch.distributed.
    """
    # torch's own, for tools that look at one rank alone; it registers its group's kind when it is imported
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if world_size > 1:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        with FakeTensorMode() as mode:
            yield mode
    finally:
        if world_size > 1:
            dist.destroy_process_group()
