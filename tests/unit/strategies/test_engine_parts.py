"""The small parts that engines are made of."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.spec.training import OptimizerSpec, Recomputation
from orchestrator.strategies import replicated
from orchestrator.strategies.blocks import _kept, blocks_of, recompute_blocks
from orchestrator.strategies.optimizers import Lion, build_optimizer, parameter_groups
from orchestrator.strategies.precision import LossScale
from orchestrator.strategies.replicated import _checksum, persistent_buffers, share_of

CPU = torch.device("cpu")


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(3, 3)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.lin(x).tanh()


class Outer(nn.Module):
    block_classes = (Inner,)

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.ModuleList([Inner(), Inner()])
        self.layer_norm = nn.LayerNorm(3)
        self.register_buffer("kept", torch.zeros(2))
        self.register_buffer("rebuilt", torch.zeros(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for part in self.stack:
            x = part(x)
        return self.layer_norm(x)


def test_decay_is_for_matrices_that_no_pattern_names() -> None:
    module = Outer()
    module.stack[1].lin.weight.requires_grad_(False)
    spec = OptimizerSpec(weight_decay=0.3, no_decay=("nothing",))
    decayed, plain = parameter_groups(module.named_parameters(), spec)
    assert (decayed["weight_decay"], decayed["names"]) == (0.3, ["stack.0.lin.weight"])
    assert plain["weight_decay"] == 0.0
    assert plain["names"] == ["stack.0.lin.bias", "stack.1.lin.bias", "layer_norm.weight", "layer_norm.bias"]
    (only,) = parameter_groups(module.named_parameters(), OptimizerSpec(no_decay=("stack.*",)))
    assert only["weight_decay"] == 0.0 and len(only["params"]) == 5


def test_lion_takes_the_papers_steps() -> None:
    """Algorithm 2 of arXiv:2302.06675, by hand."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = Lion([weight], lr=0.1, betas=(0.9, 0.8), weight_decay=0.01)
    expected, momentum = weight.detach().clone(), torch.zeros(3)
    for gradient in (torch.tensor([1.0, -1.0, 0.0]), torch.tensor([-5.0, 2.0, 1.0])):
        weight.grad = gradient.clone()
        optimizer.step()
        direction = torch.sign(0.9 * momentum + 0.1 * gradient)
        expected = expected - 0.1 * (direction + 0.01 * expected)
        momentum = 0.8 * momentum + 0.2 * gradient
        torch.testing.assert_close(weight.detach(), expected)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "lion", "adafactor"])
def test_every_optimizer_learns(kind: str) -> None:
    torch.manual_seed(0)
    module = nn.Linear(4, 1)
    spec = OptimizerSpec(kind=kind, learning_rate=0.02)
    optimizer = build_optimizer(parameter_groups(module.named_parameters(), spec), spec, CPU)
    x = torch.randn(64, 4)
    target = x.sum(1, keepdim=True)
    losses = []
    for _ in range(200):
        loss = (module(x) - target).square().mean()
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 100])
def test_shares_cover_everything_once_and_are_even(ranks: int) -> None:
    tensors = [
        ("parameter", "a", torch.arange(17.0)),
        ("buffer", "b", torch.arange(5)),
        ("parameter", "c", torch.tensor(3.0)),
    ]
    seen = {name: torch.zeros(tensor.numel(), dtype=torch.int64) for _, name, tensor in tensors}
    sizes = []
    for rank in range(ranks):
        parts = list(share_of(tensors, rank, ranks))
        sizes.append(sum(len(part.values) for part in parts))
        for part in parts:
            seen[part.name][part.start : part.start + len(part.values)] += 1
    assert all(bool((count == 1).all()) for count in seen.values())
    assert max(sizes) - min(sizes) <= 1


def test_only_buffers_of_the_state_are_kept() -> None:
    assert [name for name, _ in persistent_buffers(Outer())] == ["kept"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_checksum_sees_a_changed_value_and_a_changed_order(dtype: torch.dtype) -> None:
    tensor = torch.tensor([1, 0, 0, 1, 1]).to(dtype)
    changed, swapped = tensor.clone(), tensor[[1, 0, 2, 3, 4]]
    changed[2] = 1
    assert torch.equal(_checksum(tensor), _checksum(tensor.clone()))
    assert not torch.equal(_checksum(tensor), _checksum(changed))
    assert not torch.equal(_checksum(tensor), _checksum(swapped))


def test_a_checksum_is_the_same_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.arange(100, dtype=torch.float32).sin()
    whole = _checksum(tensor)
    monkeypatch.setattr(replicated, "_PIECE", 7)
    assert torch.equal(_checksum(tensor), whole)


def test_a_checksum_tells_nan_from_nan_and_zero_from_minus_zero() -> None:
    assert torch.equal(_checksum(torch.tensor([math.nan])), _checksum(torch.tensor([math.nan])))
    assert not torch.equal(_checksum(torch.tensor([0.0])), _checksum(torch.tensor([-0.0])))


def test_blocks_are_the_outermost_of_their_classes() -> None:
    module = Outer()
    assert blocks_of(module) == list(module.stack)
    assert blocks_of(nn.Linear(1, 1)) == []


@pytest.mark.parametrize("policy", ["blocks", "selective"])
def test_recomputation_runs_each_block_twice_and_changes_no_name_or_gradient(policy: Recomputation) -> None:
    torch.manual_seed(0)
    module = Outer()
    names = [name for name, _ in module.named_parameters()]
    x = torch.randn(4, 3)
    module(x).square().sum().backward()
    expected = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    recompute_blocks(module, policy)
    before = [block.calls for block in module.stack]
    module(x).square().sum().backward()
    assert [block.calls - was for block, was in zip(module.stack, before, strict=True)] == [2, 2]
    assert [name for name, _ in module.named_parameters()] == names
    assert all(torch.equal(p.grad, e) for p, e in zip(module.parameters(), expected, strict=True))


@pytest.mark.parametrize(("policy", "products"), [("none", 3), ("selective", 3), ("blocks", 4)])
def test_products_are_kept_by_policy(policy: Recomputation, products: int) -> None:
    """Of one linear layer: one in the forward, two in the backward, and one where it is recomputed."""
    layer = nn.Sequential(nn.Linear(3, 3), nn.Tanh())
    recompute_blocks(layer, policy)
    x = torch.randn(4, 3, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == products * 2 * 4 * 3 * 3


def test_attention_is_kept_unless_it_drops_out() -> None:
    operation = torch.ops.aten._scaled_dot_product_flash_attention.default
    q = torch.zeros(1, 1, 2, 4)
    kept = CheckpointPolicy.MUST_SAVE
    assert _kept(None, operation, q, q, q) == _kept(None, operation, q, q, q, 0.0, True) == kept
    assert _kept(None, operation, q, q, q, 0.1) != kept
    assert _kept(None, operation, q, q, q, dropout_p=0.1) != kept


def test_the_loss_scale_halves_on_overflow_and_doubles_after_good_steps() -> None:
    overflowed, good = torch.tensor(False), torch.tensor(True)
    scale = LossScale("fp16", torch.device("cpu"))
    scale.update(overflowed)
    assert scale.factor == LossScale.INITIAL / 2
    for _ in range(LossScale.GROWTH_INTERVAL):
        scale.update(good)
    assert scale.factor == LossScale.INITIAL and scale.good_steps == 0
    for _ in range(20):
        assert not scale.is_least
        scale.update(overflowed)
        if scale.factor == 1:
            break
    assert scale.is_least
    plain = LossScale("bf16", torch.device("cpu"))
    plain.update(overflowed)
    assert plain.factor == 1.0 and plain.is_least and not plain.is_dynamic
