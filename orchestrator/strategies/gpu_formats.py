"""Where a GPU computes in other formats than a CPU, or by other kernels, for steps that a GPU would take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from orchestrator.models import attention

_IN_FP32 = frozenset(
    [
        F.layer_norm, F.group_norm, F.softmax, F.log_softmax, F.binary_cross_entropy_with_logits, F.softplus,
        torch.layer_norm, torch.group_norm, torch.softmax, torch.log_softmax, Tensor.softmax, Tensor.log_softmax,
        torch.binary_cross_entropy_with_logits,
    ]
)  # fmt: skip
"""What autocast computes in fp32 on a GPU, and on a CPU in the format that it is given (torch's tables of both)."""


class autocast_as_on_gpus(TorchFunctionMode):
    """Inside, autocast on a CPU makes tensors of the formats that it would make on a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.backward:
            with self:  # else what the backward recomputes would be of other formats than in the forward
                assert not any(
                    kwargs.get(name) for name in ("gradient", "retain_graph", "create_graph", "inputs")
                )
                return _engine_run_backward(  # torch's own two ways to it step out of all modes
                    (args[0],),
                    (torch.ones_like(args[0]),),
                    False,
                    False,
                    (),
                    allow_unreachable=True,
                    accumulate_grad=True,
                )
        if func in _IN_FP32 and torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map(_widened, (args, kwargs))
        return func(*args, **kwargs)


def _widened(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.dtype in (torch.bfloat16, torch.float16):
        return leaf.float()
    return leaf


@contextmanager
def attention_as_on_gpus(*, flash: bool) -> Iterator[None]:
    """Inside, attention on a CPU goes by what a GPU's kernels take, and keeps what they would.

    Args:
        flash: Whether the GPU runs flash attention.
    """
    on_cpu = F.scaled_dot_product_attention

    def without_scores(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,  # a GPU's kernels draw it as they go; a CPU's would make all scores for it
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        return on_cpu(query, key, value, attn_mask, 0.0, *args, **kwargs)

    with (
        mock.patch.object(attention, "is_gpu", lambda _: True),
        mock.patch.object(attention, "runs_flash", lambda _: flash),
        mock.patch.object(F, "scaled_dot_product_attention", without_scores),
    ):
        yield
