"""Runs one step of a model on fake tensors, which have shapes but no numbers, and counts what it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from orchestrator.models import build_modules, build_objective
from orchestrator.models.base import Modules, Objective, parameter_names
from orchestrator.models.configs import FamilyConfig, ObjectiveConfig
from orchestrator.models.sizes import Counts
from orchestrator.models.tensors import TensorSpec

_OTHER_LENGTH = {"image": 64, "signal": 1024}
"""Height and width, or length, where the config doesn't know it: memory is then counted for this size."""


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
def _without_onednn() -> Iterator[None]:
    """OneDNN's fused recurrent layers are opaque to the counter; without it they are matrix products."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before


def count_step(config: FamilyConfig, objective_config: ObjectiveConfig) -> Counts:
    """See ``sizes.count``."""
    with FakeTensorMode(), _without_onednn():
        modules = build_modules(config, objective_config)
        objective = build_objective(config, objective_config)
        batch, known = _fake_batch(config, objective.inputs())
        flops, kept = 0, 0
        for phase in objective.phases:
            phase_flops, phase_kept = _count_phase(objective, phase, modules, batch)
            flops += phase_flops
            kept = max(kept, phase_kept)
        sizes = tuple((name, parameter.numel()) for name, parameter in parameter_names(modules))
    return Counts(
        parameters=sum(size for _, size in sizes),
        flops_per_sample=flops if known else 0,
        activation_elements_per_sample=kept,
        parameter_sizes=sizes,
    )


def _fake_batch(config: FamilyConfig, specs: Mapping[str, TensorSpec]) -> tuple[dict[str, Tensor], bool]:
    """One sample of the longest length, and whether every length was known."""
    lengths: dict[str, int | None]
    lengths = {"image": getattr(config, "image_size", None), "signal": getattr(config, "signal_length", None)}
    if "tokens" in specs:
        longest = specs["tokens"].longest
        lengths = dict.fromkeys(specs, longest)
    batch = {"sample_seed": torch.zeros(1, dtype=torch.int64)}
    known = True
    for name, spec in specs.items():
        if spec.optional:
            continue
        length = lengths.get(name)
        if None in spec.shape and length is None:
            known = False
            length = _OTHER_LENGTH[name]
        shape = [int(length or 0) if size is None else size for size in spec.shape]
        batch[name] = torch.zeros(1, *shape, dtype=torch.float32 if spec.kind == "float" else torch.int64)
    return batch, known


def _count_phase(
    objective: Objective, phase: str, modules: Modules, batch: dict[str, Tensor]
) -> tuple[int, int]:
    """Operations and kept elements of one phase, in which only its own module gathers gradients."""
    trained = objective.trains(phase)
    for name, module in modules.items():
        module.requires_grad_(name == trained)
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
