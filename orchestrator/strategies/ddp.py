"""DDP: a full copy of the modules on each worker, gradients averaged while the backward goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from orchestrator.models.base import Modules, Objective
from orchestrator.planning.plan import Plan
from orchestrator.spec.job import DdpStrategy
from orchestrator.strategies import precision, replicated
from orchestrator.strategies.base import StateRange, StateReader
from orchestrator.strategies.blocks import compile_blocks, recompute_blocks
from orchestrator.strategies.optimizers import (
    MOMENTS,
    build_optimizer,
    moments_of,
    parameter_groups,
    restore_moments,
    set_learning_rate,
)


class DdpEngine:
    """An Engine over DistributedDataParallel; with one worker over the plain modules."""

    def __init__(self, plan: Plan, modules: Modules, objective: Objective, device: torch.device) -> None:
        assert isinstance(plan.job.strategy, DdpStrategy)
        training = plan.job.training
        precision.check_precision(training.precision, device)
        self.device = device
        self._precision = training.precision
        self._rank, self._world_size = replicated.rank_and_world_size()
        self._bare: Modules = {name: module.to(device) for name, module in modules.items()}
        self._module_of = {phase: objective.trains(phase) for phase in objective.phases}
        self._specs = {
            phase: training.phase_optimizers.get(phase, training.optimizer) for phase in objective.phases
        }
        for module in self._bare.values():
            if training.activation_checkpointing:
                recompute_blocks(module)
            if training.compile:
                compile_blocks(module)
        self._trainable = {
            name: [p for p in module.parameters() if p.requires_grad] for name, module in self._bare.items()
        }
        self._optimizers = {
            phase: build_optimizer(
                parameter_groups(self._bare[self._module_of[phase]].named_parameters(), spec), spec, device
            )
            for phase, spec in self._specs.items()
        }
        self._updates = dict.fromkeys(objective.phases, 0)
        self._scalers = {phase: precision.loss_scaler(self._precision, device) for phase in objective.phases}
        self._wrapped = {
            name: self._wrap(module, plan.job.strategy.bucket_megabytes)
            for name, module in self._bare.items()
            if self._world_size > 1 and self._trainable[name]
        }
        self.modules: Modules = dict(self._bare)

    def _wrap(self, module: nn.Module, bucket_megabytes: float) -> DistributedDataParallel:
        return DistributedDataParallel(
            module,
            device_ids=[self.device.index] if self.device.index is not None else None,
            bucket_cap_mb=bucket_megabytes,
            gradient_as_bucket_view=True,
            # a broadcast before each forward would change buffers that an earlier forward of the same step
            # still needs for its backward; step() levels them once instead
            broadcast_buffers=False,
        )

    def autocast(self) -> AbstractContextManager[None]:
        """Around forward and loss: the precision of the job."""
        return precision.autocast(self._precision, self.device)

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

    def backward(self, phase: str, loss: Tensor) -> None:
        """Accumulate gradients of this rank's share of the global mean; DDP averages, so they add up."""
        self._scalers[phase].scale(loss * self._world_size).backward()

    def step(self, phase: str, learning_rate_factor: float, clip_norm: float | None) -> float:
        """Clip, update, zero the gradients; returns the global norm before clipping.

        Where the norm is not finite nothing is updated, so that the state stays usable.
        """
        optimizer, scaler = self._optimizers[phase], self._scalers[phase]
        scaler.unscale_(optimizer)
        parameters = [p for p in self._trainable[self._module_of[phase]] if p.grad is not None]
        norm_tensor = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm = float(norm_tensor)
        if math.isfinite(norm):
            if clip_norm is not None and norm > clip_norm:
                torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm_tensor)
            set_learning_rate(optimizer, self._specs[phase].learning_rate * learning_rate_factor)
            scaler.step(optimizer)
            self._updates[phase] += 1
        scaler.update()
        optimizer.zero_grad(set_to_none=not self._wrapped)
        self._level_buffers(self._module_of[phase])
        return norm

    def _level_buffers(self, name: str) -> None:
        """Rank 0's running statistics become everybody's, so that all ranks evaluate and save the same."""
        buffers = [buffer for _, buffer in replicated.persistent_buffers(self._bare[name])]
        if buffers and self._world_size > 1:
            replicated.broadcast_from_rank_zero(buffers)

    def _tensors(self) -> Iterator[replicated.Named]:
        optimizers = {self._module_of[phase]: optimizer for phase, optimizer in self._optimizers.items()}
        for module_name, module in self._bare.items():
            for path, parameter in module.named_parameters():
                yield "parameter", f"{module_name}/{path}", parameter
                if module_name in optimizers:
                    for kind, moment in moments_of(optimizers[module_name], parameter).items():
                        yield kind, f"{module_name}/{path}", moment
            for path, buffer in replicated.persistent_buffers(module):
                yield "buffer", f"{module_name}/{path}", buffer

    def state(self) -> Iterator[StateRange]:
        """An equal share of everything."""
        return replicated.share_of(list(self._tensors()), self._rank, self._world_size)

    def scalars(self) -> dict[str, float]:
        """``updates/PHASE``, and with fp16 ``loss_scale/PHASE`` and ``loss_scale_growth/PHASE``."""
        values: dict[str, float] = {f"updates/{phase}": count for phase, count in self._updates.items()}
        for phase, scaler in self._scalers.items():
            if scaler.is_enabled():
                saved = scaler.state_dict()
                values |= {
                    f"loss_scale/{phase}": saved["scale"],
                    f"loss_scale_growth/{phase}": saved["_growth_tracker"],
                }
        return values

    def load(self, reader: StateReader, scalars: Mapping[str, float]) -> None:
        """Put saved state in place, whatever strategy and world size wrote it."""
        with torch.no_grad():
            for module_name, module in self._bare.items():
                for path, parameter in module.named_parameters():
                    parameter.copy_(
                        replicated.read_whole(reader, "parameter", f"{module_name}/{path}", parameter)
                    )
                for path, buffer in replicated.persistent_buffers(module):
                    buffer.copy_(replicated.read_whole(reader, "buffer", f"{module_name}/{path}", buffer))
        for phase, optimizer in self._optimizers.items():
            self._updates[phase] = int(scalars[f"updates/{phase}"])
            module_name, allowed = self._module_of[phase], MOMENTS[self._specs[phase].kind]
            for path, parameter in self._bare[module_name].named_parameters():
                name = f"{module_name}/{path}"
                kinds = replicated.saved_moments(reader, name, allowed)
                moments = {kind: self._read_moment(reader, kind, name) for kind in kinds}
                if moments:
                    restore_moments(optimizer, parameter, moments, self._updates[phase])
            if self._scalers[phase].is_enabled() and f"loss_scale/{phase}" in scalars:
                scale = {"scale": scalars[f"loss_scale/{phase}"]}
                growth = {"_growth_tracker": int(scalars[f"loss_scale_growth/{phase}"])}
                self._scalers[phase].load_state_dict(self._scalers[phase].state_dict() | scale | growth)

    def _read_moment(self, reader: StateReader, kind: str, name: str) -> Tensor:
        shape = replicated.saved_shape(reader, kind, name)
        return reader.read(kind, name, 0, math.prod(shape)).reshape(shape).to(self.device)

    def replicas_differ(self) -> str | None:
        """Collective. The first tensor of the state that is not equal on all ranks, or None."""
        return replicated.first_difference(
            {f"{kind} {name}": tensor for kind, name, tensor in self._tensors()}
        )

    def close(self) -> None:
        """Nothing was started."""
