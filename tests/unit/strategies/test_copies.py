from __future__ import annotations

import numpy as np
import torch

from orchestrator.strategies.copies import Copies, for_kernels
from orchestrator.strategies.replicated import Buffers, persistent_buffers


def test_bytes_become_the_fractions_that_a_cpu_makes() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    made = for_kernels(torch.from_numpy(levels))
    assert np.array_equal(made.numpy(), np.multiply(levels, np.float32(1 / 255), dtype=np.float32))
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_other_tensors_stay_as_they_are() -> None:
    for tensor in (torch.randn(3, 5), torch.arange(4), torch.randn(2, 3, 4)):
        assert for_kernels(tensor) is tensor


def test_without_a_driver_nothing_is_put_aside() -> None:
    copies = Copies(torch.device("cpu"))
    with copies.aside():
        there = copies.begun(torch.ones(2))
    copies.wait_for([there])
    assert there.tolist() == [1.0, 1.0]


def test_buffers_are_found_once_and_read_as_they_are() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))
    model.register_buffer("scratch", torch.ones(1), persistent=False)
    buffers = Buffers(model)
    model(torch.randn(5, 3))
    expected = [buffer for _, buffer in persistent_buffers(model)]
    assert len(expected) == 3 and all(
        one is other for one, other in zip(buffers.now(), expected, strict=True)
    )
