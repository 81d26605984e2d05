"""What DDP and FSDP2 share: torch optimizers over the modules' own parameters, whole or sharded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from orchestrator.errors import SpecError
from orchestrator.models.base import Modules, Objective
from orchestrator.models.deferred import FirstValues
from orchestrator.planning.plan import Plan
from orchestrator.state import AVERAGE, StateRange, StateReader
from orchestrator.strategies import precision, replicated, saved
from orchestrator.strategies.averages import Averages
from orchestrator.strategies.base import Update
from orchestrator.strategies.blocks import compile_blocks, recompute_blocks
from orchestrator.strategies.materialize import Materializer
from orchestrator.strategies.optimizers import (
    build_optimizer,
    local,
    moments_allowed,
    moments_of,
    parameter_groups,
    restore_moments,
    set_learning_rate,
    update,
)


class TorchEngine(ABC):
    """The part of an Engine that does not depend on where parameters lie."""

    reduces_last = False

    def __init__(
        self,
        plan: Plan,
        modules: Modules,
        objective: Objective,
        device: torch.device,
        values: FirstValues | None = None,
    ) -> None:
        training = plan.job.training
        precision.check_precision(training.precision, device)
        self.device = device
        self._precision, self._keeps_frozen = training.precision, plan.job.initialize.lora is None
        self._rank, self._world_size = replicated.rank_and_world_size()
        self._module_of = {phase: objective.trains(phase) for phase in objective.phases}
        self._specs = {p: training.phase_optimizers.get(p, training.optimizer) for p in objective.phases}
        for module in modules.values():
            recompute_blocks(module, training.recomputation)
            if training.compile:
                compile_blocks(module)
        materializer = Materializer(values, device)
        self._bare: Modules = {
            name: self._distribute(module, materializer) for name, module in modules.items()
        }
        self._buffers = {name: replicated.Buffers(module) for name, module in self._bare.items()}
        self._trainable = {
            name: [p for p in module.parameters() if p.requires_grad] for name, module in self._bare.items()
        }
        for phase, module_name in self._module_of.items():
            if not self._trainable[module_name]:
                raise SpecError(f"initialize.freeze: it leaves nothing to train in {phase}")
        self._optimizers = {
            phase: build_optimizer(
                parameter_groups(self._bare[self._module_of[phase]].named_parameters(), spec),
                spec,
                self._trainable[self._module_of[phase]][0].device,
            )
            for phase, spec in self._specs.items()
        }
        self._updates = {
            phase: torch.zeros((), dtype=torch.int64, device=device) for phase in objective.phases
        }
        self._loss_scales = {
            phase: precision.LossScale(self._precision, device) for phase in objective.phases
        }
        self._has_diverged = torch.zeros((), dtype=torch.bool, device=device)
        self._averages = Averages(training.ema)
        for phase, name in self._module_of.items():
            self._follow(phase, name)
        self.modules: Modules = dict(self._bare)

    def _follow(self, phase: str, module_name: str) -> None:
        module = self._bare[module_name]
        for path, parameter in module.named_parameters():
            if parameter.requires_grad:
                self._averages.follow(phase, f"{module_name}/{path}", lambda held=parameter: held)  # type: ignore[misc]
        for path, _ in replicated.persistent_buffers(module):
            self._averages.follow(
                phase, f"{module_name}/{path}", partial(module.get_buffer, path), is_buffer=True
            )

    @abstractmethod
    def _distribute(self, module: nn.Module, materializer: Materializer) -> nn.Module:
        """Give a module memory and lay it out over the ranks, before its optimizer is made."""

    @property
    @abstractmethod
    def _loss_factor(self) -> float:
        """What makes gradients add up over ranks."""

    @abstractmethod
    def _before_parameters(self) -> None:
        """Called before parameters are read or written outside of a forward and backward."""

    def autocast(self) -> AbstractContextManager[None]:
        """Around forward and loss: the precision of the job."""
        return precision.autocast(self._precision, self.device)

    def backward(self, phase: str, loss: Tensor) -> None:
        """Accumulate gradients of ``loss``, this rank's share of the global mean."""
        self._loss_scales[phase].scaled(loss * self._loss_factor).backward()

    def step(
        self,
        phase: str,
        learning_rate_factor: float,
        clip_norm: float | None,
        leave_out: Tensor | None = None,
    ) -> Update:
        """Clip, update, zero the gradients, and don't wait for the device; see ``Engine.step``."""
        self._before_parameters()
        optimizer, loss_scale = self._optimizers[phase], self._loss_scales[phase]
        gradients = [local(p.grad) for p in self._trainable[self._module_of[phase]] if p.grad is not None]
        norm = self._global_norm(gradients).double() / loss_scale.factor
        finite = norm.isfinite()
        left_out = torch.zeros_like(finite) if leave_out is None else leave_out.to(finite.device)
        diverged = ~finite & loss_scale.is_least & ~left_out
        self._has_diverged |= diverged
        skip = ~finite | self._has_diverged | left_out
        if gradients and (clip_norm is not None or loss_scale.is_dynamic):
            clip = torch.ones_like(norm) if clip_norm is None else (clip_norm / (norm + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_(gradients, (clip / loss_scale.factor).to(gradients[0]))
        set_learning_rate(optimizer, self._specs[phase].learning_rate * learning_rate_factor)
        update(optimizer, skip, own=self._specs[phase].factory is not None)
        loss_scale.update(finite)
        self._zero_gradients()
        self._level_buffers(self._module_of[phase])
        self._averages.move(phase, self._updates[phase], skip)
        self._updates[phase] += ~skip
        return Update(norm, diverged)

    def _global_norm(self, gradients: Sequence[Tensor]) -> Tensor:
        """Euclidean norm () over all elements on all ranks."""
        norms = torch._foreach_norm(list(gradients)) if gradients else []
        squares = torch.stack(list(norms)).square().sum() if norms else torch.zeros(())
        squares = squares.to(self.device)
        if self._gradients_are_sharded and self._world_size > 1:
            dist.all_reduce(squares, group=self._shard_group)
        return squares.sqrt()

    _gradients_are_sharded = False
    _shard_group: dist.ProcessGroup | None = None
    """The ranks that share one copy of the model, where not all do."""
    _copy_group: dist.ProcessGroup | None = None
    """The ranks that hold the same shards as this one, where others do."""

    @abstractmethod
    def _zero_gradients(self) -> None:
        """Forget all modules' gradients."""

    def _level_buffers(self, name: str) -> None:
        """Rank 0's running statistics become everybody's, so that all ranks evaluate and save the same."""
        if self._world_size > 1 and (buffers := self._buffers[name].now()):
            replicated.broadcast_from_rank_zero(buffers)

    def _is_kept(self, kind: str, name: str) -> bool:
        """Whether a checkpoint holds it: not the weights below adapters, which are where they came from."""
        module_name, _, path = name.partition("/")
        return (
            self._keeps_frozen
            or kind != "parameter"
            or self._bare[module_name].get_parameter(path).requires_grad
        )

    def _tensors(self) -> Iterator[replicated.Named]:
        """Everything that has a state, in the same order on all ranks."""
        optimizers = {self._module_of[phase]: optimizer for phase, optimizer in self._optimizers.items()}
        for module_name, module in self._bare.items():
            for path, parameter in module.named_parameters():
                yield "parameter", f"{module_name}/{path}", parameter
                if module_name in optimizers:
                    for kind, moment in moments_of(optimizers[module_name], parameter).items():
                        yield kind, f"{module_name}/{path}", moment
            for path, buffer in replicated.persistent_buffers(module):
                yield "buffer", f"{module_name}/{path}", buffer
        for average in self._averages.all:
            yield AVERAGE, average.name, average.values

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the modules have their averages; see ``Engine.averaged``."""
        self._before_parameters()
        with self._averages.in_place():
            try:
                yield
            finally:
                self._before_parameters()

    def state(self) -> Iterator[StateRange]:
        """The shards that this rank holds, and its equal share of what all ranks hold."""
        self._before_parameters()
        whole = []
        for kind, name, tensor in self._tensors():
            if not self._is_kept(kind, name):
                continue
            if isinstance(tensor, DTensor):
                first = shard_range(tensor)[0]
                start, stop = own_range(tensor)
                if start < stop:
                    values = local(tensor.detach()).reshape(-1)[start - first : stop - first]
                    yield StateRange(kind, name, tuple(tensor.shape), start, values)
            else:
                whole.append((kind, name, tensor))
        yield from replicated.share_of(whole, self._rank, self._world_size)

    def scalars(self) -> dict[str, float]:
        """``updates/PHASE``, and with fp16 ``loss_scale/PHASE`` and ``loss_scale_steps/PHASE``."""
        values: dict[str, float] = {
            f"updates/{phase}": count.item() for phase, count in self._updates.items()
        }
        for phase, scale in self._loss_scales.items():
            if scale.is_dynamic:
                values[f"loss_scale/{phase}"] = scale.factor.item()
                values[f"loss_scale_steps/{phase}"] = scale.good_steps.item()
        return values

    @torch.no_grad()
    def load(self, reader: StateReader, scalars: Mapping[str, float]) -> None:
        """Put saved state in place, whatever strategy and world size wrote it."""
        self._before_parameters()
        for module_name, module in self._bare.items():
            for path, parameter in module.named_parameters():
                if self._is_kept("parameter", f"{module_name}/{path}"):
                    _fill(parameter, reader, "parameter", f"{module_name}/{path}")
            for path, buffer in replicated.persistent_buffers(module):
                _fill(buffer, reader, "buffer", f"{module_name}/{path}")
        saved.check_averages(reader, kept=bool(self._averages.all))
        for average in self._averages.all:
            _fill(average.values, reader, AVERAGE, average.name)
        for phase, optimizer in self._optimizers.items():
            updates = saved.updates_of(scalars, phase)
            self._updates[phase].fill_(updates)
            scale = self._loss_scales[phase]
            if scale.is_dynamic and f"loss_scale/{phase}" in scalars:
                scale.factor.fill_(scalars[f"loss_scale/{phase}"])
                scale.good_steps.fill_(int(scalars[f"loss_scale_steps/{phase}"]))
            module_name = self._module_of[phase]
            for path, parameter in self._bare[module_name].named_parameters():
                moments: dict[str, Tensor] = {}
                name = f"{module_name}/{path}"
                for kind in saved.moments_of(reader, name, moments_allowed(self._specs[phase])):
                    shape = saved.shape_of(reader, kind, name)
                    same = shape == tuple(parameter.shape)
                    moments[kind] = torch.zeros_like(parameter if same else parameter.new_empty(shape))
                    _fill(moments[kind], reader, kind, name)
                if moments:
                    restore_moments(optimizer, parameter, moments, updates, self._specs[phase])

    def replicas_differ(self) -> str | None:
        """Collective. The first replicated tensor that is not equal on all ranks, or None."""
        self._before_parameters()
        named = {f"{kind} {name}": tensor for kind, name, tensor in self._tensors()}
        whole = {name: tensor for name, tensor in named.items() if not isinstance(tensor, DTensor)}
        difference = replicated.first_difference(whole)
        if difference is None and self._copy_group is not None:
            shards = {name: local(tensor) for name, tensor in named.items() if name not in whole}
            difference = replicated.first_difference(shards, self._copy_group)
        return difference

    @abstractmethod
    def close(self) -> None:
        """Free what the engine started."""


def shard_range(tensor: DTensor) -> tuple[int, int]:
    """Where this rank's shard begins and ends in the flattened tensor. Shards are of whole rows: as many on each
    rank, rounded up, the last ranks fewer or none.
    """
    mesh = tensor.device_mesh  # its last dimension shards; one before that copies
    rows, ranks, rank = tensor.shape[0], mesh.size(-1), mesh.get_local_rank(mesh.ndim - 1)
    rows_per_rank = -(-rows // ranks)
    row_elements = tensor.numel() // max(rows, 1)
    begin = min(rank * rows_per_rank, rows)
    return begin * row_elements, min(begin + rows_per_rank, rows) * row_elements


def own_range(tensor: DTensor) -> tuple[int, int]:
    """The part of this rank's shard that it saves, where other ranks hold the same shard: an equal share of it."""
    start, stop = shard_range(tensor)
    mesh = tensor.device_mesh
    copies, copy = (mesh.size(0), mesh.get_local_rank(0)) if mesh.ndim > 1 else (1, 0)
    count = stop - start
    return start + count * copy // copies, start + count * (copy + 1) // copies


def _fill(tensor: Tensor, reader: StateReader, kind: str, name: str) -> None:
    """Overwrite what this rank holds of ``tensor`` with what was saved."""
    start, stop = shard_range(tensor) if isinstance(tensor, DTensor) else (0, tensor.numel())
    values = saved.read_range(reader, kind, name, tensor.shape, start, stop)
    target = local(tensor.detach())
    target.copy_(values.reshape(target.shape))
