"""Recomputation and compilation of a module's declared blocks, in place, so that parameter names stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.attention.varlen  # its operation is then known
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from orchestrator.spec.training import Recomputation


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The outermost submodules whose class is one of ``module.block_classes``; none where the module declares none."""
    kinds: tuple[type[nn.Module], ...] = getattr(module, "block_classes", ())
    found: list[nn.Module] = []

    def visit(parent: nn.Module) -> None:
        for child in parent.children():
            if isinstance(child, kinds):
                found.append(child)
            else:
                visit(child)

    if kinds:
        visit(module)
    return found


def recompute_blocks(module: nn.Module, policy: Recomputation) -> None:
    """Keep of each block its inputs, with ``selective`` also what products give (Korthikanti et al. 2022,
    arXiv:2205.05198), and recompute the rest in the backward (Chen et al. 2016, arXiv:1604.06174). A module without blocks is
    recomputed as one.
    """
    if policy == "none":
        return
    options: dict[str, Any] = {}
    if policy == "selective":
        options = {"context_fn": partial(create_selective_checkpoint_contexts, _kept)}
    for block in blocks_of(module) or [module]:
        _replace_forward(block, partial(checkpoint, block.forward, use_reentrant=False, **options))


def compile_blocks(module: nn.Module) -> None:
    """Compile each block's forward by itself: equal blocks share one compilation, and the hooks that shard
    parameters stay outside. A module without blocks is compiled as one. Call it after ``recompute_blocks``.
    """
    for block in blocks_of(module) or [module]:
        _replace_forward(block, torch.compile(block.forward))


_ATEN = torch.ops.aten
_PRODUCTS = frozenset(
    (
        _ATEN.mm.default,
        _ATEN.addmm.default,
        _ATEN.bmm.default,
        _ATEN.baddbmm.default,
        _ATEN.convolution.default,
        torch.ops.torch_attn._varlen_attn.default,  # attention that knows no dropout
    )
)
_ATTENTION = frozenset(
    (
        _ATEN._scaled_dot_product_flash_attention.default,
        _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
        _ATEN._scaled_dot_product_efficient_attention.default,
        _ATEN._scaled_dot_product_cudnn_attention.default,
    )
)


def _kept(_: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    """Whether an operation's result is kept. Attention with dropout is not: where it is left out of the recomputation, what
    is drawn after it would be other numbers.
    """
    if operation in _PRODUCTS or (operation in _ATTENTION and not _dropout(operation, args, kwargs)):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE


def _dropout(attention: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> float:
    place = [argument.name for argument in attention._schema.arguments].index("dropout_p")
    share: float = args[place] if place < len(args) else kwargs.get("dropout_p", 0.0)
    return share


def _replace_forward(block: nn.Module, forward: Callable[..., Any]) -> None:
    block.forward = forward
