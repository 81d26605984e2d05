"""Packed documents on a GPU: the kernel that takes their borders gives what the mask gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.models.attention import attend, borders_of, has_kernel, seen_in_documents

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

SAMPLES, LENGTH = 3, 256


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (8, 2)])
@pytest.mark.parametrize("width", [64, 128, 192])
def test_borders_give_the_numbers_of_a_mask(width: int, heads: int, shared: int, dtype: torch.dtype) -> None:
    device = torch.device("cuda", 0)
    if not has_kernel(device, dtype, width):
        pytest.skip("this GPU is older than Ampere")
    generator = np.random.default_rng(1)
    number = (generator.random((SAMPLES, LENGTH)) < 0.05).cumsum(1)
    borders = borders_of(number)
    assert borders is not None

    def made(count: int, seed: int) -> Tensor:
        random = torch.Generator(device).manual_seed(seed)
        shape = (SAMPLES, count, LENGTH, width)
        return torch.randn(shape, generator=random, device=device, dtype=dtype).requires_grad_()

    def numbers(with_borders: bool) -> list[Tensor]:
        inputs = q, k, v = made(heads, 1), made(shared, 2), made(shared, 3)
        there = torch.from_numpy(borders).to(device) if with_borders else None
        seen = seen_in_documents(torch.tensor(number, device=device), there, q, head_width=width, dropout=0.0)
        assert (seen.border_K is not None) == with_borders
        y_BTW = attend(q, k, v, seen)
        (y_BTW.float() ** 2).sum().backward()
        return [y_BTW.detach(), *(x.grad for x in inputs if x.grad is not None)]

    expected, found = numbers(False), numbers(True)
    assert len(found) == 4
    for one, other in zip(found, expected, strict=True):
        scale = other.float().abs().max().item()
        torch.testing.assert_close(one.float(), other.float(), rtol=0.02, atol=0.02 * scale)
