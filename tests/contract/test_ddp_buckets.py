"""The same gradient has the same bits in a process's first backward as in later ones, on more than two workers too."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing
from torch.nn.parallel import DistributedDataParallel

from orchestrator.strategies.ddp import settle_buckets

pytestmark = pytest.mark.slow


def _worker(rank: int, port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=4)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    wrapper = DistributedDataParallel(module, gradient_as_bucket_view=True)
    settle_buckets(wrapper)
    torch.manual_seed(rank)
    inputs, labels = torch.randn(6, 4), torch.randint(0, 2, (6,))
    found = []
    for _ in range(3):
        wrapper.zero_grad(set_to_none=False)
        torch.nn.functional.cross_entropy(wrapper(inputs), labels).backward()
        found.append(torch.cat([p.grad.flatten().clone() for p in module.parameters()]))
    assert found[0].abs().sum() > 0
    assert torch.equal(found[0], found[1]) and torch.equal(found[1], found[2])
    dist.destroy_process_group()


def test_the_first_backward_adds_up_as_later_ones_do():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_worker, (port,), 4)
