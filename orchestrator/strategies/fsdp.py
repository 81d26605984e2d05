"""FSDP2: parameters, gradients and moments sharded by rows over the workers (torch ``fully_shard``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)

from orchestrator.errors import SpecError
from orchestrator.models.base import Modules, Objective
from orchestrator.models.deferred import FirstValues
from orchestrator.planning.plan import Plan
from orchestrator.spec.strategy import FsdpStrategy
from orchestrator.strategies import precision
from orchestrator.strategies.blocks import blocks_of
from orchestrator.strategies.materialize import Materializer
from orchestrator.strategies.optimizers import refuse_shards
from orchestrator.strategies.precision import COMPUTE_DTYPES
from orchestrator.strategies.single_process import SingleProcessGroup
from orchestrator.strategies.torch_engine import TorchEngine


class FsdpEngine(TorchEngine):
    """An Engine over modules whose blocks are sharded each by itself.

    Gradients are reduced after every micro-batch: keeping them whole until the last one would take the memory that
    sharding saves. fp32 shards are the masters; with bf16 or fp16 they are cast when they are gathered.
    """

    _gradients_are_sharded = True

    def __init__(
        self,
        plan: Plan,
        modules: Modules,
        objective: Objective,
        device: torch.device,
        values: FirstValues | None = None,
    ) -> None:
        assert isinstance(plan.job.strategy, FsdpStrategy)
        self._strategy = plan.job.strategy
        training = plan.job.training
        for phase in objective.phases:
            refuse_shards(training.phase_optimizers.get(phase, training.optimizer), "fsdp", "shards")
        compute = COMPUTE_DTYPES[training.precision]
        self._mixed = (
            MixedPrecisionPolicy(reduce_dtype=COMPUTE_DTYPES[plan.job.strategy.reduce_dtype])
            if compute == torch.float32
            else MixedPrecisionPolicy(
                param_dtype=compute,
                reduce_dtype=COMPUTE_DTYPES[plan.job.strategy.reduce_dtype],
                cast_forward_inputs=False,
            )
        )
        # an adversarial loss may differentiate a gradient (a gradient penalty), which needs the same gathered
        # parameters once more after a backward has passed; so they stay until the micro-batch is done
        self._stays_gathered = len(objective.phases) > 1
        self._own_group = SingleProcessGroup(device)
        self._mesh = _mesh(device, dist.get_world_size(), plan.job.strategy.shard_group)
        if self._mesh.ndim > 1:
            self._shard_group, self._copy_group = self._mesh.get_group("shard"), self._mesh.get_group("copy")
        super().__init__(plan, modules, objective, device, values)

    def _distribute(self, module: nn.Module, materializer: Materializer) -> nn.Module:
        for name, parameter in module.named_parameters():
            if parameter.dim() == 0:
                raise SpecError(
                    f"strategy fsdp: {name} is a single number and can't be sharded; use ddp or zero"
                )
        precision.cast_norm_inputs(module, self._precision, self.device)
        offload: OffloadPolicy = OffloadPolicy()
        if self._strategy.offload and self.device.type != "cpu":
            offload = CPUOffloadPolicy(pin_memory=True)
        for part in (*blocks_of(module), module):
            _fill(part, materializer)
            # the root's own parameters are the first that the backward needs and the last that the forward did
            stays = self._stays_gathered or part is module
            fully_shard(
                part,
                mesh=self._mesh,
                reshard_after_forward=self._strategy.reshard_after_forward and not stays,
                mp_policy=self._mixed,
                offload_policy=offload,
            )
        for sharded in _sharded_parts(module):
            # each rank's loss is its share of the global mean, so gradients are summed, not averaged
            sharded.set_gradient_divide_factor(1.0)
            sharded.set_force_sum_reduction_for_comms(True)
            sharded.set_reshard_after_backward(not self._stays_gathered)
        return module

    @property
    def _loss_factor(self) -> float:
        return 1.0

    def _before_parameters(self) -> None:
        """Evaluation may have left gathered parameters in the modules' places; put the shards back."""
        for module in self._bare.values():
            for part in _sharded_parts(module):
                part.reshard()

    @contextmanager
    def micro_step(self, phase: str, *, last: bool) -> Iterator[None]:
        """Around forward and backward of one micro-batch. Gradients that reach modules of other phases are
        dropped in ``step``: FSDP keeps gathered copies of parameters, which can't be told to gather none.
        """
        yield

    def _zero_gradients(self) -> None:
        for parameters in self._trainable.values():
            for parameter in parameters:
                parameter.grad = None

    def close(self) -> None:
        """Leave the process group that a single process made for itself."""
        self._own_group.close()


def _mesh(device: torch.device, ranks: int, shard_group: int | Literal["node"] | None) -> DeviceMesh:
    """The ranks in a row; with groups that each share one copy, a row of those (Zhao et al. 2023, arXiv:2304.11277)."""
    assert shard_group != "node", "a plan holds the number"
    with unset_fake_temporarily():  # a mesh knows its ranks by number, whatever tensors are
        if shard_group is None or shard_group == ranks:
            return init_device_mesh(device.type, (ranks,))
        shape = (ranks // shard_group, shard_group)
        return init_device_mesh(device.type, shape, mesh_dim_names=("copy", "shard"))


def _fill(part: nn.Module, materializer: Materializer) -> None:
    """Whole on this rank until it is sharded, and to the last bit rank 0's, whose processor may round otherwise."""
    for tensor in materializer.fill(part):
        tensor.data = tensor.data.contiguous()
        if dist.get_world_size() > 1:
            dist.broadcast(tensor.data, src=0)


def _sharded_parts(module: nn.Module) -> Iterator[FSDPModule]:
    return (part for part in module.modules() if isinstance(part, FSDPModule))
