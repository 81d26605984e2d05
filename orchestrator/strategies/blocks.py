"""Recomputation and compilation of a module's declared blocks, in place, so that parameter names stay as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


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


def recompute_blocks(module: nn.Module) -> None:
    """Keep only each block's inputs and recompute its activations in the backward (Chen et al. 2016,
    arXiv:1604.06174). A module without blocks is recomputed as one.
    """
    for block in blocks_of(module) or [module]:
        _replace_forward(block, _recomputing(block.forward))


def compile_blocks(module: nn.Module) -> None:
    """Compile each block's forward by itself: equal blocks share one compilation, and the hooks that shard
    parameters stay outside. A module without blocks is compiled as one. Call it after ``recompute_blocks``.
    """
    for block in blocks_of(module) or [module]:
        _replace_forward(block, torch.compile(block.forward))


def _recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    def recomputed(*args: Any, **kwargs: Any) -> Any:
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return recomputed


def _replace_forward(block: nn.Module, forward: Callable[..., Any]) -> None:
    block.forward = forward
