"""Ranks that are not there: a process that believes it is one of many, on tensors that have shapes and no memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from orchestrator.models.deferred import FirstValues
from orchestrator.registry import load
from orchestrator.strategies import STRATEGIES
from orchestrator.strategies.ddp import DdpEngine

if TYPE_CHECKING:
    from orchestrator.models.base import Modules, Objective
    from orchestrator.planning.plan import Plan
    from orchestrator.strategies.base import Engine


@contextmanager
def simulated_rank(world_size: int, *, alone_in_group: bool = False) -> Iterator[FakeTensorMode]:
    """Inside, this process is rank 0 of ``world_size`` and tensors are fake: nothing is computed, sent or allocated, and
    whoever asks for a tensor's value gets an error.

    The process must not be in a process group. One rank is in none, as it would be without torch.distributed, but
    where it is to be ``alone_in_group``: a real group of one would not take fakes.
    """
    # torch's own, for tools that look at one rank alone; it registers its group's kind when it is imported
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if world_size > 1 or alone_in_group:
        dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world_size)
    try:
        with FakeTensorMode() as mode:
            yield mode
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class Zeros(TorchDispatchMode):
    """Inside, whoever asks a fake tensor for its value gets zero instead of an error, and of places none; and OneDNN's
    recurrence keeps what it really would.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        asked = args[0] if args else None
        if isinstance(asked, Tensor) and asked.is_meta and not isinstance(asked, FakeTensor):
            with unset_fake_temporarily():  # modules that were built without memory, before they are filled
                return func(*args, **(kwargs or {}))
        if isinstance(asked, FakeTensor) and asked.constant is None:
            if func is torch.ops.aten._local_scalar_dense.default:
                return _zero(asked.dtype)
            if func is torch.ops.aten.nonzero.default:
                return asked.new_empty((0, asked.dim()), dtype=torch.int64)
        results = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mkldnn_rnn_layer.default and args[-1]:  # it is trained
            return [*results[:3], results[3].new_empty(_workspace(args))]
        return results


def _workspace(args: tuple[Any, ...]) -> int:
    """Bytes that OneDNN keeps of one recurrent layer for its backward, of which fakes know nothing. It grows by as much with
    each step: a few steps, really taken, tell how large it is of many.
    """
    steps, few, more = args[0].shape[0], *_FEW_STEPS
    with unset_fake_temporarily(), torch.enable_grad():  # without gradients it would keep nothing
        others = [
            torch.zeros(one.shape, dtype=one.dtype) if isinstance(one, Tensor) else one for one in args[1:]
        ]
        sizes = [
            torch.ops.aten.mkldnn_rnn_layer.default(
                torch.zeros(count, *args[0].shape[1:], dtype=args[0].dtype), *others
            )[3].numel()
            for count in _FEW_STEPS
        ]
    return sizes[0] + (sizes[1] - sizes[0]) * (steps - few) // (more - few)


_FEW_STEPS = (8, 16)


def _zero(dtype: torch.dtype) -> bool | int | float:
    if dtype == torch.bool:
        return False
    return 0.0 if dtype.is_floating_point else 0


class FakeValues(FirstValues):
    """First values that are none: as large as they would be."""

    def __init__(self) -> None:
        """Nothing was written down."""

    def of(self, tensor: Tensor) -> Tensor:
        """Fake memory for a tensor."""
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)


class _Buckets(nn.Module):
    """What torch's DDP holds: all gradients from the start, in flat buckets. The wrapper itself takes no fakes."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def no_sync(self) -> nullcontext[None]:
        """Nothing is exchanged in any case."""
        return nullcontext()


class SimulatedDdpEngine(DdpEngine):
    """The engine of DDP without torch's wrapper."""

    def _wrap(self, module: nn.Module) -> Any:
        return _Buckets(module)


@contextmanager
def prepared(plan: Plan, modules: Modules, objective: Objective) -> Iterator[Engine]:
    """The plan's engine over modules from ``build_deferred``, inside ``simulated_rank``.

    DeepSpeed asks for values as it goes: it belongs inside ``Zeros`` too.
    """
    strategy = plan.job.strategy.kind
    kind: Any = SimulatedDdpEngine if strategy == "ddp" else load(STRATEGIES, strategy, "strategy")
    with ExitStack() as stack:
        if strategy == "zero":
            stack.enter_context(_deepspeed_on_fakes(plan.world_size))
        engine: Engine = kind(plan, modules, objective, torch.device("cpu"), FakeValues())
        yield engine
        engine.close()


@contextmanager
def _deepspeed_on_fakes(world_size: int) -> Iterator[None]:
    """DeepSpeed without what fakes can't do: moving a module to the device where it is, comparing ranks' numbers."""
    told = {
        "DS_ACCELERATOR": "cpu", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(world_size),
    }  # fmt: skip
    with mock.patch.dict(os.environ, told), ExitStack() as stack:
        import deepspeed.runtime.zero.partition_parameters as partitioning
        import deepspeed.runtime.zero.partitioned_param_coordinator as coordinator
        import deepspeed.runtime.zero.stage3 as stage3

        stack.enter_context(mock.patch.object(nn.Module, "to", lambda module, *_, **__: module))
        for part in (partitioning, coordinator, stage3):
            stack.enter_context(mock.patch.object(part, "assert_ints_same_as_other_ranks", lambda *_: None))
        yield
