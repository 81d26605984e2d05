"""DDP: a full copy of the modules on each worker, gradients averaged while the backward goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from orchestrator.models.base import Modules, Objective
from orchestrator.models.deferred import FirstValues
from orchestrator.planning.plan import Plan
from orchestrator.spec.strategy import DdpStrategy
from orchestrator.strategies.materialize import Materializer
from orchestrator.strategies.torch_engine import TorchEngine


class DdpEngine(TorchEngine):
    """An Engine over DistributedDataParallel; with one worker over the plain modules."""

    reduces_last = True

    def __init__(
        self,
        plan: Plan,
        modules: Modules,
        objective: Objective,
        device: torch.device,
        values: FirstValues | None = None,
    ) -> None:
        assert isinstance(plan.job.strategy, DdpStrategy)
        self._bucket_megabytes = plan.job.strategy.bucket_megabytes
        self._reduces_in_bf16 = plan.job.strategy.reduce_dtype == "bf16"
        super().__init__(plan, modules, objective, device, values)
        self._wrapped = {
            name: self._wrap(self._bare[name])
            for name in self._module_of.values()
            if self._world_size > 1 and self._trainable[name]
        }

    def _distribute(self, module: nn.Module, materializer: Materializer) -> nn.Module:
        materializer.fill(module)
        return module

    def _wrap(self, module: nn.Module) -> DistributedDataParallel:
        wrapper = DistributedDataParallel(
            module,
            device_ids=[self.device.index] if self.device.index is not None else None,
            bucket_cap_mb=self._bucket_megabytes,
            gradient_as_bucket_view=True,
            # a broadcast before each forward would change buffers that an earlier forward of the same step
            # still needs for its backward; step() levels them once instead
            forward_sync_buffers=False,
        )
        settle_buckets(wrapper)
        if self._reduces_in_bf16:
            # without annotations: torch compares them, and here they are texts
            wrapper.register_comm_hook(None, lambda state, bucket: averaged_in_bf16(bucket))
        return wrapper

    @property
    def _loss_factor(self) -> float:
        return float(self._world_size)  # DDP averages over ranks

    def _before_parameters(self) -> None:
        """Parameters are always whole and in place."""

    @contextmanager
    def micro_step(self, phase: str, *, last: bool) -> Iterator[None]:
        """Around forward and backward of one micro-batch; see Engine."""
        trained = self._module_of[phase]
        wrapper = self._wrapped.get(trained)
        others = [p for name, group in self._trainable.items() if name != trained for p in group]
        for parameter in others:
            parameter.requires_grad_(False)
        if wrapper is not None:
            self.modules[trained] = wrapper
        try:
            with nullcontext() if wrapper is None or last else wrapper.no_sync():
                yield
        finally:
            self.modules[trained] = self._bare[trained]
            for parameter in others:
                parameter.requires_grad_(True)

    def _zero_gradients(self) -> None:
        # in place where they are views of DDP's buckets, so that the next backward adds straight into those
        for optimizer in self._optimizers.values():
            optimizer.zero_grad(set_to_none=not self._wrapped)

    def close(self) -> None:
        """Nothing was started."""


def averaged_in_bf16(bucket: Any) -> torch.futures.Future[Tensor]:
    """Gradients as DDP exchanges them, rounded: half the bytes go over the links. torch's own of this kind refuses gloo."""
    gradients: Tensor = bucket.buffer()
    sent = gradients.bfloat16().div_(dist.get_world_size())

    def received(sums: torch.futures.Future[list[Tensor]]) -> Tensor:
        return gradients.copy_(sums.value()[0])

    exchange: torch.futures.Future[list[Tensor]] = dist.all_reduce(sent, async_op=True).get_future()
    return exchange.then(received)


def settle_buckets(wrapper: DistributedDataParallel) -> None:
    """Collective. Have DDP order its buckets now, by a backward that adds nothing.

    DDP lays its buckets out anew after the first backward of a process. More than two ranks add up a gradient in an
    order that follows from its place in the bucket, so the first step after a resume would differ in its last bits
    from the same step of a run that was not interrupted.
    """
    parameters = [p for p in wrapper.module.parameters() if p.requires_grad]
    wrapper.reducer.prepare_for_backward([])
    nothing = torch.zeros((), device=parameters[0].device)
    for parameter in parameters:  # the last one's gradient comes first, as in most models
        nothing = nothing + parameter.sum() * 0
    nothing.backward()
    wrapper.reducer._rebuild_buckets()
