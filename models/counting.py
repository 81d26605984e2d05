"""Runs one step of a model on fake tensors, which have shapes but no numbers, and counts what it does."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from orchestrator.errors import SpecError
from orchestrator.models import adapters, build_modules, build_objective
from orchestrator.models.base import Modules, Objective, parameter_names
from orchestrator.models.configs import FamilyConfig, LoraSpec, ObjectiveConfig, RecurrentConfig
from orchestrator.models.sizes import Counts
from orchestrator.models.tensors import TensorSpec

_UNSAID_SIZE = {"image": 64, "signal": 1024}
"""Tensor of which a network may take any size -> size where the config doesn't say it: memory is then counted for this
one, and operations are not."""
_FEW_STEPS = (4, 8)

_Shape = tuple[int, ...]


def _attention(query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any) -> int:
    operations: int = sdpa_flop_count(query, key, value)
    return operations


def _attention_backward(out: _Shape, query: _Shape, key: _Shape, value: _Shape, *_: Any, **__: Any) -> int:
    """Twice the forward: the recomputation of scores inside the kernel is not work that the model asks for."""
    return 2 * _attention(query, key, value)


_FORMULAS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Operations that torch's counter has no formula for."""


@contextmanager
def without_onednn() -> Iterator[None]:
    """OneDNN's fused recurrent layers are opaque to the counter; without it they are matrix products."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


@contextmanager
def explained_overflow() -> Iterator[None]:
    """Sizes that are each possible can make a tensor that is not."""
    try:
        yield
    except RuntimeError as error:
        if "overflow" not in str(error):
            raise
        raise SpecError(
            f"model: its sizes make a tensor larger than any computer can address ({str(error).splitlines()[0]});"
            " make them smaller"
        ) from None


def count_step(
    config: FamilyConfig, objective_config: ObjectiveConfig, lora: LoraSpec | None = None
) -> Counts:
    """See ``sizes.count``."""
    with FakeTensorMode(), without_onednn(), explained_overflow():
        modules = build_modules(config, objective_config)
        if lora is not None:
            adapters.add_adapters(modules, lora, seed=0)
        beside = counted_beside(modules, lora)
        objective = build_objective(config, objective_config)
        specs, lengths = objective.inputs(), lengths_of(config, objective.inputs())
        steps = next((name for name in ("tokens", "past", "signal") if name in specs), None)
        if isinstance(config, RecurrentConfig) and steps is not None and lengths[steps] > _FEW_STEPS[1]:
            flops, kept = _count_recurrence(objective, modules, specs, lengths, steps)
        else:
            flops, kept = count_phases(objective, modules, fake_batch(specs, lengths))
        adapters.refuse_unused(modules)
        sizes = tuple((name, parameter.numel()) for name, parameter in parameter_names(modules))
    known = all(
        config.open_size(name) for name, spec in specs.items() if name in _UNSAID_SIZE and None in spec.shape
    )
    return Counts(
        parameters=sum(size for _, size in sizes),
        flops_per_sample=flops if known else 0,
        activation_elements_per_sample=kept,
        parameter_sizes=sizes,
        beside=beside,
    )


def counted_beside(modules: Modules, lora: LoraSpec | None) -> int | None:
    """See ``Counts.beside``."""
    if lora is None:
        return None
    return sum(parameter.numel() for _, parameter in parameter_names(modules) if parameter.requires_grad)


def lengths_of(config: FamilyConfig, specs: Mapping[str, TensorSpec]) -> dict[str, int]:
    """For each named tensor, the size that stands for those that its spec leaves open, or its first size."""
    longest = specs["tokens"].longest if "tokens" in specs else None
    lengths = {}
    for name, spec in specs.items():
        first = spec.shape[0] if spec.shape else None
        lengths[name] = config.open_size(name) or _UNSAID_SIZE.get(name) or longest or first or 1
    return lengths


def fake_batch(
    specs: Mapping[str, TensorSpec], lengths: Mapping[str, int], *, samples: int = 1
) -> dict[str, Tensor]:
    """Samples of the longest length."""
    batch = {"sample_seed": torch.zeros(samples, dtype=torch.int64)}
    for name, spec in specs.items():
        if not spec.optional:
            shape = [lengths[name] if size is None else size for size in spec.shape]
            batch[name] = torch.zeros(
                samples, *shape, dtype=torch.float32 if spec.kind == "float" else torch.int64
            )
    return batch


def _count_recurrence(
    objective: Objective,
    modules: Modules,
    specs: Mapping[str, TensorSpec],
    lengths: dict[str, int],
    steps: str,
) -> tuple[int, int]:
    """Counts of a recurrence grow by as much with each step: a few steps tell how many there are in many."""
    few, more = _FEW_STEPS
    counts = []
    for length in (few, more):
        batch = fake_batch(specs, {**lengths, steps: length})
        if steps == "past":
            batch[steps] = batch[steps].new_zeros(1, length, batch[steps].shape[2])
        counts.append(count_phases(objective, modules, batch))
    flops, kept = (
        first + (second - first) * (lengths[steps] - few) // (more - few)
        for first, second in zip(*counts, strict=True)
    )
    return flops, kept


def count_phases(objective: Objective, modules: Modules, batch: dict[str, Tensor]) -> tuple[int, int]:
    """Operations of all phases, and kept elements of the phase that keeps most."""
    trainable = {parameter for _, parameter in parameter_names(modules) if parameter.requires_grad}
    counts = [_count_phase(objective, phase, modules, batch, trainable) for phase in objective.phases]
    return sum(flops for flops, _ in counts), max(kept for _, kept in counts)


def _count_phase(
    objective: Objective,
    phase: str,
    modules: Modules,
    batch: dict[str, Tensor],
    trainable: Collection[nn.Parameter],
) -> tuple[int, int]:
    """Operations and kept elements of one phase, in which only its own module gathers gradients."""
    trained = objective.trains(phase)
    for name, module in modules.items():
        for parameter in module.parameters():
            parameter.requires_grad_(name == trained and parameter in trainable)
    weights = {
        parameter.untyped_storage()._cdata for module in modules.values() for parameter in module.parameters()
    }
    kept: dict[int, tuple[Any, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = (storage, storage.nbytes() // tensor.element_size())
        return tensor

    with (
        FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        loss = objective.loss(phase, modules, batch).loss
        loss.backward()
    return counter.get_total_flops(), sum(size for _, size in kept.values())
