"""ZeRO: DeepSpeed partitions optimizer state (1), gradients (2) and parameters (3). Only this file imports deepspeed.

How DeepSpeed 0.19 is used, and why not through its ``engine(...)`` call: that registers hooks on the outputs which
divide gradients by the accumulation steps and begin a reduction, also when a loss differentiates an output by itself
(a gradient penalty). So the objective calls the plain module, whose own hooks gather and release parameters, and
``backward`` does what those output hooks would have done, once. DeepSpeed averages over ranks; the loss is this rank's
share of the global mean, so it is multiplied by the world size, and never divided by the accumulation steps.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from orchestrator.errors import InfrastructureError, SpecError
from orchestrator.models.base import Modules, Objective
from orchestrator.models.deferred import FirstValues
from orchestrator.planning.deepspeed_config import deepspeed_config
from orchestrator.planning.plan import Plan
from orchestrator.spec.strategy import ZeroStrategy
from orchestrator.state import AVERAGE, StateRange, StateReader
from orchestrator.strategies import precision, replicated, saved, zero_parameters
from orchestrator.strategies.async_io import load_async_io
from orchestrator.strategies.averages import Averages
from orchestrator.strategies.base import Update
from orchestrator.strategies.blocks import compile_blocks, recompute_blocks
from orchestrator.strategies.gradient_order import GradientOrder
from orchestrator.strategies.materialize import Materializer, release_freed_memory
from orchestrator.strategies.optimizers import (
    build_optimizer,
    moments_allowed,
    moments_of,
    parameter_groups,
    refuse_shards,
    restore_moments,
    set_learning_rate,
)
from orchestrator.strategies.single_process import SingleProcessGroup
from orchestrator.strategies.zero_parameters import FrozenShare


@dataclass(frozen=True)
class Fragment:
    """What this rank holds of one parameter, within one of DeepSpeed's flat fp32 partitions."""

    path: str
    shape: tuple[int, ...]
    start: int
    """First element in the flattened parameter."""
    partition: Tensor
    """The flat partition, which is what the optimizer knows as its parameter."""
    group: int
    """The partition's number among DeepSpeed's."""
    offset: int
    """First element in the partition."""
    count: int

    def of(self, flat: Tensor) -> Tensor:
        """Its part of a tensor laid out like the partition."""
        return flat.detach().narrow(0, self.offset, self.count)


class ZeroEngine:
    """An Engine over one DeepSpeed engine for each phase."""

    reduces_last = False

    def __init__(
        self,
        plan: Plan,
        modules: Modules,
        objective: Objective,
        device: torch.device,
        values: FirstValues | None = None,
    ) -> None:
        strategy, training = plan.job.strategy, plan.job.training
        assert isinstance(strategy, ZeroStrategy)
        precision.check_precision(training.precision, device)
        self.device = device
        self._precision, self._stage = training.precision, strategy.stage
        # a checkpoint holds no weights below adapters: they are where they came from
        self._keeps_frozen = plan.job.initialize.lora is None
        self._module_of = {phase: objective.trains(phase) for phase in objective.phases}
        self._specs = {p: training.phase_optimizers.get(p, training.optimizer) for p in objective.phases}
        self._own_group = SingleProcessGroup(device)
        self._rank, self._world_size = replicated.rank_and_world_size()
        deepspeed = import_deepspeed(device, self._world_size)
        if "nvme" in (strategy.offload.optimizer, strategy.offload.parameters):
            load_async_io()
        config = deepspeed_config(
            plan.job,
            world_size=plan.world_size,
            micro_batch_size=plan.micro_batch_size,
            accumulation_steps=plan.accumulation_steps,
            parameters=plan.parameters,
        )
        if len(modules) > 1:
            # an adversarial loss may differentiate a gradient, and averages read parameters between steps: both
            # need whole parameters, so stage 3 shards their gradients and moments only
            config["zero_optimization"]["stage3_param_persistence_threshold"] = max(plan.parameters, 1)
        elif self._stage == 3:
            config["zero_optimization"].setdefault("stage3_param_persistence_threshold", 0)
        self.modules: Modules = dict(modules)
        materializer = Materializer(values, device)
        rounded = {
            f"{name}/{path}": parameter.detach()
            for name, module in modules.items()
            for path, parameter in module.named_parameters()
            if self._precision != "fp32"
        }
        self._frozen_shares: list[FrozenShare] = []
        self._place(deepspeed, config, materializer)
        release_freed_memory()
        self._trainable = {
            name: [p for p in module.parameters() if p.requires_grad] for name, module in self.modules.items()
        }
        self._buffers = {name: replicated.Buffers(module) for name, module in self.modules.items()}
        self._untrained = self._keep_untrained()
        self._engines: dict[str, Any] = {}
        for phase in objective.phases:
            self._start_engine(deepspeed, phase, config, plan)
            self._correct_masters(phase, materializer, rounded)
        self._updates = dict.fromkeys(objective.phases, 0)
        self._averages = Averages(training.ema)
        for phase in objective.phases:
            self._follow(phase)
        self._loss_factor = float(self._world_size)  # DeepSpeed averages over ranks

    def _start_engine(self, deepspeed: Any, phase: str, config: Mapping[str, Any], plan: Plan) -> None:
        spec, module = self._specs[phase], self.modules[self._module_of[phase]]
        refuse_shards(spec, "zero", "partitions")
        if not self._trainable[self._module_of[phase]]:
            raise SpecError(f"initialize.freeze: it leaves nothing to train in {phase}")
        precision.cast_norm_inputs(module, self._precision, self.device)
        recompute_blocks(module, plan.job.training.recomputation)
        if plan.job.training.compile:
            compile_blocks(module)
        offloads = config["zero_optimization"]["offload_optimizer"]["device"] != "none"
        optimizer = build_optimizer(
            parameter_groups(module.named_parameters(), spec),
            spec,
            torch.device("cpu") if offloads else self.device,
        )
        engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=dict(config), dist_init_required=False
        )
        if self._stage == 3 and len(self.modules) > 1:
            parameter: Any
            for parameter in module.parameters():
                parameter.is_external_param = True  # not released between the hooks of one step
        self._engines[phase] = engine
        if self._stage < 3:
            GradientOrder(engine.optimizer, (p for p in module.parameters() if p.requires_grad))

    def _correct_masters(self, phase: str, materializer: Materializer, rounded: Mapping[str, Tensor]) -> None:
        """DeepSpeed made its masters from parameters that were rounded: have them begin at the exact first values."""
        if not rounded:
            return
        for part in self._resident_fragments(phase):
            exact = materializer.value(rounded[f"{self._module_of[phase]}/{part.path}"]).reshape(-1)
            part.of(part.partition).copy_(exact[part.start : part.start + part.count])

    def _follow(self, phase: str) -> None:
        """Averages of the phase's flat partitions, by their numbers, and of its module's buffers."""
        optimizer, module_name = self._engines[phase].optimizer, self._module_of[phase]
        for group, flat in enumerate(_partitions_of(optimizer, self._stage)):
            self._averages.follow(phase, str(group), lambda held=flat: held)  # type: ignore[misc]
        module = self.modules[module_name]
        for path, _ in replicated.persistent_buffers(module):
            self._averages.follow(
                phase, f"{module_name}/{path}", partial(module.get_buffer, path), is_buffer=True
            )

    def _place(self, deepspeed: Any, config: Mapping[str, Any], materializer: Materializer) -> None:
        """Give the modules memory: whole, or in stage 3 this rank's share of those that are trained."""
        converter = None
        for name, module in self.modules.items():
            if self._stage < 3 or name not in self._module_of.values():
                materializer.fill(module)
                continue
            converter = converter or zero_parameters.converter(deepspeed, config)
            dtype = precision.COMPUTE_DTYPES[self._precision]
            shares = zero_parameters.partition(name, module, materializer, converter, dtype)
            self._frozen_shares += shares if self._keeps_frozen else []

    def _keep_untrained(self) -> dict[str, Tensor]:
        """fp32 values of parameters that are not trained, on the CPU: DeepSpeed keeps no master of those, and
        rounds them to the compute format. Only where that loses something.
        """
        if self._precision == "fp32" or self._stage == 3 or not self._keeps_frozen:
            return {}
        trained = set(self._module_of.values())
        return {
            f"{name}/{path}": parameter.detach().to("cpu", torch.float32, copy=True)
            for name, module in self.modules.items()
            if name in trained
            for path, parameter in module.named_parameters()
            if not parameter.requires_grad
        }

    # -- a step ----------------------------------------------------------------------------------------------

    def autocast(self) -> AbstractContextManager[None]:
        """Around forward and loss: the precision of the job."""
        return precision.autocast(self._precision, self.device)

    @contextmanager
    def micro_step(self, phase: str, *, last: bool) -> Iterator[None]:
        """Around forward and backward of one micro-batch; see Engine. Stages 2 and 3 reduce in each, as they hold
        no whole gradients.
        """
        trained = self._module_of[phase]
        others = [p for name, group in self._trainable.items() if name != trained for p in group]
        for parameter in others:
            parameter.requires_grad_(False)
        self._engines[phase].set_gradient_accumulation_boundary(last)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def backward(self, phase: str, loss: Tensor) -> None:
        """Accumulate gradients of ``loss``, this rank's share of the global mean."""
        engine = self._engines[phase]
        optimizer = engine.optimizer
        optimizer.clear_backward_seen_flag()
        optimizer.backward_prologue()
        optimizer.enter_backward()
        engine.backward(loss * self._loss_factor, scale_wrt_gas=False)

    def step(
        self,
        phase: str,
        learning_rate_factor: float,
        clip_norm: float | None,
        leave_out: Tensor | None = None,
    ) -> Update:
        """Clip, update, zero the gradients; see ``Engine.step``. DeepSpeed itself waits for the norm."""
        assert leave_out is None, "planning refuses it"
        engine = self._engines[phase]
        set_learning_rate(engine.optimizer, self._specs[phase].learning_rate * learning_rate_factor)
        engine.optimizer.clip_grad = clip_norm or 0.0
        engine.step()
        applied = engine.was_step_applied()
        if self._world_size > 1 and (buffers := self._buffers[self._module_of[phase]].now()):
            replicated.broadcast_from_rank_zero(buffers)
        self._averages.move(phase, torch.tensor(self._updates[phase]), torch.tensor(not applied))
        self._updates[phase] += applied
        norm = float(engine.get_global_grad_norm())
        diverged = not math.isfinite(norm) and self._precision != "fp16"  # whose scaler ends a run by itself
        if diverged:
            self._loss_factor = math.nan  # no gradient is finite from here on, so nothing is updated any more
        return Update(torch.tensor(norm, dtype=torch.float64), torch.tensor(diverged))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the modules have their averages; see ``Engine.averaged``."""
        with self._averages.in_place():
            self._renew_parameters()
            yield
        self._renew_parameters()

    @torch.no_grad()
    def _renew_parameters(self) -> None:
        """Make parameters of the masters anew. Collective."""
        if not self._averages.all:
            return
        for phase, engine in self._engines.items():
            if self._stage == 3:
                engine.optimizer._partition_all_parameters()
                zero_parameters.forget_second_copies(self.modules[self._module_of[phase]])
            self._masters_to_parameters(engine.optimizer)

    # -- state -----------------------------------------------------------------------------------------------

    def _fragments(self, phase: str) -> Iterator[Fragment]:
        """What this rank holds of each trained parameter."""
        optimizer = self._engines[phase].optimizer
        for path, parameter in self.modules[self._module_of[phase]].named_parameters():
            if not parameter.requires_grad:
                continue
            if self._stage == 3:
                group, offset, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
                whole: Any = parameter
                start, count = zero_parameters.share_of(whole)
                shape = tuple(whole.ds_shape)
            elif (mapping := parameter._hp_mapping) is not None:  # type: ignore[attr-defined]
                group = mapping.param_group_index
                offset, count = mapping.hp_fragment_address.start, mapping.hp_fragment_address.numel
                start = mapping.lp_fragment_address.start
                shape = tuple(parameter.shape)
            else:
                continue
            if count > 0:
                partition = _partitions_of(optimizer, self._stage)[group]
                yield Fragment(path, shape, start, partition, group, offset, count)

    def _averages_of(self, phase: str, group: int) -> Iterator[Tensor]:
        """The average of one partition, where averages are kept."""
        return (
            one.values
            for one in self._averages.all
            if not one.is_buffer and (one.phase, one.name) == (phase, str(group))
        )

    def _resident_fragments(self, phase: str) -> Iterator[Fragment]:
        """The fragments, each with its partition and moments in memory until the next is asked for."""
        optimizer = self._engines[phase].optimizer
        by_group = sorted(self._fragments(phase), key=lambda part: part.group)
        for group, parts in groupby(by_group, key=lambda part: part.group):
            with self._resident(optimizer, group):
                yield from parts

    def _is_in_files(self, optimizer: Any, group: int) -> bool:
        return self._stage == 3 and optimizer._swappable_optimizer_subgroup(group)

    @contextmanager
    def _resident(self, optimizer: Any, group: int) -> Iterator[None]:
        """NVMe offload keeps large groups in files between updates: inside, this one is in memory."""
        in_files = self._is_in_files(optimizer, group)
        if in_files:
            optimizer._optimizer_states_and_gradient_swap_in(group)
        try:
            yield
        finally:
            if in_files:
                optimizer._optimizer_states_and_gradient_swap_out(group)

    def _whole_tensors(self) -> Iterator[replicated.Named]:
        """Everything kept that all ranks hold whole: buffers, averages, and before stage 3 what is not trained."""
        trained = set(self._module_of.values())
        for module_name, module in self.modules.items():
            for path, parameter in module.named_parameters():
                name = f"{module_name}/{path}"
                is_frozen = self._keeps_frozen and self._stage < 3 and not parameter.requires_grad
                if module_name not in trained or is_frozen:
                    yield "parameter", name, self._untrained.get(name, parameter)
            for path, buffer in replicated.persistent_buffers(module):
                yield "buffer", f"{module_name}/{path}", buffer
        for average in self._averages.all:
            if average.is_buffer:
                yield AVERAGE, average.name, average.values

    def state(self) -> Iterator[StateRange]:
        """fp32 masters and moments of this rank's partitions, and its equal share of what all ranks hold."""
        for phase in self._engines:
            optimizer = self._engines[phase].optimizer
            for part in self._resident_fragments(phase):
                name, stays = (
                    f"{self._module_of[phase]}/{part.path}",
                    not self._is_in_files(optimizer, part.group),
                )
                yield StateRange("parameter", name, part.shape, part.start, part.of(part.partition), stays)
                for kind, moment in moments_of(optimizer.optimizer, part.partition).items():
                    yield StateRange(kind, name, part.shape, part.start, part.of(moment), stays)
                for average in self._averages_of(phase, part.group):
                    yield StateRange(AVERAGE, name, part.shape, part.start, part.of(average))
        yield from (share.state() for share in self._frozen_shares if len(share.values))
        yield from replicated.share_of(list(self._whole_tensors()), self._rank, self._world_size)

    def scalars(self) -> dict[str, float]:
        """``updates/PHASE``, and with fp16 ``loss_scale/PHASE``."""
        values: dict[str, float] = {f"updates/{phase}": count for phase, count in self._updates.items()}
        if self._precision == "fp16":
            values |= {
                f"loss_scale/{phase}": float(e.optimizer.loss_scale) for phase, e in self._engines.items()
            }
        return values

    @torch.no_grad()
    def load(self, reader: StateReader, scalars: Mapping[str, float]) -> None:
        """Put saved state in place, whatever strategy and world size wrote it."""
        saved.check_averages(reader, kept=bool(self._averages.all))
        for kind, name, tensor in self._whole_tensors():
            values = saved.read_range(reader, kind, name, tensor.shape, 0, tensor.numel())
            tensor.copy_(values.reshape(tensor.shape))
        for phase, engine in self._engines.items():
            self._updates[phase] = saved.updates_of(scalars, phase)
            if self._precision == "fp16" and f"loss_scale/{phase}" in scalars:
                engine.optimizer.loss_scale = scalars[f"loss_scale/{phase}"]
            if self._stage == 3:
                engine.optimizer._partition_all_parameters()
                zero_parameters.forget_second_copies(self.modules[self._module_of[phase]])
        for share in self._frozen_shares:
            shape, stop = share.parameter.ds_shape, share.start + len(share.values)
            share.replace(saved.read_range(reader, "parameter", share.name, shape, share.start, stop))
        for phase, engine in self._engines.items():
            self._load_partitions(phase, reader)
            self._masters_to_parameters(engine.optimizer)
        self._copy_untrained_into_modules()

    def _load_partitions(self, phase: str, reader: StateReader) -> None:
        base = self._engines[phase].optimizer.optimizer
        allowed = moments_allowed(self._specs[phase])
        for part in self._resident_fragments(phase):
            name, stop = f"{self._module_of[phase]}/{part.path}", part.start + part.count
            part.of(part.partition).copy_(
                saved.read_range(reader, "parameter", name, part.shape, part.start, stop)
            )
            for average in self._averages_of(phase, part.group):
                part.of(average).copy_(saved.read_range(reader, AVERAGE, name, part.shape, part.start, stop))
            kinds = saved.moments_of(reader, name, allowed)
            if kinds and part.partition not in base.state:
                fresh = {kind: torch.zeros_like(part.partition) for kind in kinds}
                restore_moments(base, part.partition, fresh, self._updates[phase], self._specs[phase])
            for kind in kinds:
                part.of(base.state[part.partition][kind]).copy_(
                    saved.read_range(reader, kind, name, part.shape, part.start, stop)
                )

    def _masters_to_parameters(self, optimizer: Any) -> None:
        """What DeepSpeed does after an update: masters are rounded into parameters, on all ranks. Collective."""
        if self._stage < 3:
            optimizer.update_lp_params()
            return
        for group in range(len(optimizer.fp16_groups)):
            with self._resident(optimizer, group):
                optimizer._reassign_or_swap_out_partitioned_parameters(group)
        if optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    def _copy_untrained_into_modules(self) -> None:
        for name, values in self._untrained.items():
            module_name, _, path = name.partition("/")
            self.modules[module_name].get_parameter(path).copy_(values)

    def replicas_differ(self) -> str | None:
        """Collective. The first replicated tensor that is not equal on all ranks, or None."""
        tensors = {f"{kind} {name}": tensor for kind, name, tensor in self._whole_tensors()}
        if self._stage < 3:
            for module_name in self._module_of.values():
                for path, parameter in self.modules[module_name].named_parameters():
                    tensors[f"parameter {module_name}/{path}"] = parameter
        return replicated.first_difference(tensors)

    def close(self) -> None:
        """Remove DeepSpeed's hooks, and the process group that a single process made for itself."""
        for engine in self._engines.values():
            engine.destroy()
        zero_parameters.forget_groups()
        self._own_group.close()


def _partitions_of(optimizer: Any, stage: int) -> list[Tensor]:
    """This rank's flat fp32 partitions, by number."""
    partitions: list[Tensor] = (
        optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
    )
    return partitions


def load_deepspeed(kind: str) -> Any:
    """DeepSpeed for a kind of device, also in a process that has none yet: told which, it looks at none as it is imported."""
    os.environ["DS_ACCELERATOR"] = kind
    import deepspeed

    return deepspeed


def import_deepspeed(device: torch.device, world_size: int) -> Any:
    """DeepSpeed, set up for the device."""
    if device.type == "cpu":
        os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", str(world_size)))
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
    deepspeed = load_deepspeed(device.type)
    from deepspeed.accelerator import get_accelerator

    if get_accelerator()._name != device.type:
        raise InfrastructureError(
            f"DeepSpeed was imported for {get_accelerator()._name} earlier in this process and is needed for {device.type}"
        )
    # its shared-memory collectives would be compiled at first use; gloo's serve as well. By looking, it would run compilers to
    # find which others could be: those that we use say so themselves
    vars(deepspeed.ops).setdefault("__compatible_ops__", {})["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed
