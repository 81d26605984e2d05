"""What a family and an objective are made of: the two small contracts of ``models/``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.models.tensors import TensorSpec, check_batch

__all__ = [
    "Batch",
    "Modules",
    "Objective",
    "Parted",
    "Sample",
    "Sums",
    "TensorSpec",
    "check_batch",
    "normal_from",
    "parameter_names",
    "uniform_from",
    "weights_of",
]

Batch = Mapping[str, Tensor]
"""Named tensors of one micro-batch; the first dimension of each is the sample. ``sample_seed`` (B,) int64 is
always there: a hash of (seed, epoch, sample id), so that masks and noise drawn from it (``uniform_from``,
``normal_from``) are the same however the global batch is split. ``weight`` (B,) float is there only where some
samples are padding (weight 0). One tensor is not by sample: ``document_border``, which a batch with ``document`` has on
a GPU, see ``attention.borders_of``."""

Modules = dict[str, nn.Module]
"""A family's modules by name: ``{"model": ...}`` for most, ``{"generator": ..., "discriminator": ...}`` for a GAN.
Each module has ``block_classes: tuple[type[nn.Module], ...]``: the classes FSDP wraps and recomputation covers.

A module that no phase trains is an *average* of another one, named by its attribute ``average_of``; none of its
parameters requires a gradient. An engine gives it no optimizer and no gradient exchange, lays it out like its
source, so that their local tensors pair up, and saves and loads it under its own name like every module."""


class Parted(Protocol):
    """A model that is exported in parts, which others run one after another: see ``FamilyConfig.export_parts``."""

    def parts(self) -> Mapping[str, nn.Module]:
        """Each by its name, with a forward of its own and nothing that it does not need."""
        ...


@dataclass(frozen=True)
class Sums:
    """Sums over samples, so that shares from micro-batches and ranks add up exactly.

    ``loss`` is differentiable: the *sum* of per-unit losses (unit: sample, token, pixel ...).
    ``count`` is the number of units it sums over. ``metrics`` holds other detached sums: name -> (sum, count).
    """

    loss: Tensor
    count: Tensor
    metrics: Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Sample:
    """Something generated, to be looked at in the tracker.

    ``kind`` says what ``data`` is: ``text``: token numbers (T,) int64, to be decoded by whoever has the tokenizer;
    ``image``: (H, W, C) float in [0, 1], C 1 or 3; ``series``: (lines, steps) float with one name in ``lines`` for each;
    ``matrix``: (rows, rows) counts, of true by predicted class, whose names are ``lines``; ``sound``: (samples, channels)
    int16, ``rate`` of them a second.
    """

    name: str
    kind: Literal["text", "image", "series", "matrix", "sound"]
    data: np.ndarray[Any, Any]
    lines: tuple[str, ...] = ()
    read: bool = False
    """Of a text: whether it is what a model read; that may have another tokenizer than what it writes."""
    rate: int = 0
    """Of a sound."""


class Objective(Protocol):
    """What to minimize. Pure torch: knows no rank, device or Ray."""

    phases: tuple[str, ...]
    """Ordered phases of one step; most have one, ``("model",)``. A phase's name is the name of the module(s)
    it trains: see ``trains``."""

    def trains(self, phase: str) -> str:
        """The name of the module whose parameters the phase updates."""
        ...

    def inputs(self) -> Mapping[str, TensorSpec]:
        """The named tensors a batch must have."""
        ...

    @property
    def units_per_sample(self) -> int | None:
        """Units of one sample where every sample has as many (then no ranks need to agree on a count), else None."""
        ...

    def units(self, phase: str, batch: Batch) -> Tensor:
        """How many units (samples, tokens, ...) the phase's loss sums over in this micro-batch: a scalar known
        from the batch alone, *before* the forward, so that the loop can divide by the global count.
        """
        ...

    def loss(self, phase: str, modules: Mapping[str, nn.Module], batch: Batch) -> Sums:
        """Forward of one phase on one micro-batch."""
        ...

    def evaluate(
        self, modules: Mapping[str, nn.Module], batch: Batch
    ) -> Mapping[str, tuple[Tensor, Tensor | None]]:
        """Detached sums for evaluation: name -> (sum, count); always has ``loss``. What ours give beside numbers is told
        in ``models.metrics``.
        """
        ...

    def after_step(self, phase: str, modules: Mapping[str, nn.Module]) -> None:
        """Called on every rank once the phase's optimizer has stepped: moves averages (see ``Modules``).

        Elementwise on each parameter's local tensor, so it works on copies and on equal shards alike; an engine
        that hides parameters between steps (ZeRO-3) makes them visible around it.
        """
        ...

    def samples(self, modules: Mapping[str, nn.Module], batch: Batch, count: int) -> list[Sample]:
        """At most ``count`` generated samples, or none where there is nothing to look at.

        ``batch`` is one of evaluation's. Every rank calls it with as many samples in the batch, since a sharded
        module's forward is collective; the caller puts the modules in evaluation mode and logs rank 0's answer.
        """
        ...


def _mixed(x: Tensor) -> Tensor:
    """SplitMix64's finalizer (Steele et al. 2014) on int64, whose products wrap as they do for uint64."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def uniform_from(sample_seed_B: Tensor, shape: tuple[int, ...], salt: int = 0) -> Tensor:
    """Uniform numbers in [0, 1) of shape (B, *shape), a pure function of each sample's seed and ``salt``."""
    count = 1
    for size in shape:
        count *= size
    counter = torch.arange(1, count + 1, device=sample_seed_B.device, dtype=torch.int64)
    shift = (salt * 7046029254386353131 + 2**63) % 2**64 - 2**63  # wrapped to int64
    state_BN = _mixed(sample_seed_B[:, None] + shift) + counter * -7046029254386353131
    bits_BN = (_mixed(state_BN) >> 40) & 0xFFFFFF
    return (bits_BN.to(torch.float32) / (1 << 24)).reshape(len(sample_seed_B), *shape)


def normal_from(sample_seed_B: Tensor, shape: tuple[int, ...], salt: int = 0) -> Tensor:
    """Standard normal numbers of shape (B, *shape), by the Box-Muller transform of ``uniform_from``."""
    radius = torch.sqrt(-2 * torch.log1p(-uniform_from(sample_seed_B, shape, 2 * salt)))
    return radius * torch.cos(2 * torch.pi * uniform_from(sample_seed_B, shape, 2 * salt + 1))


def weights_of(batch: Batch, like: Tensor) -> Tensor:
    """The samples' weights (B,), ones where the batch has none."""
    weight: Any = batch.get("weight")
    return torch.ones(like.shape[0], device=like.device) if weight is None else weight


def parameter_names(modules: Mapping[str, nn.Module]) -> list[tuple[str, nn.Parameter]]:
    """Each parameter once, named as a person writes it: ``layers.0.weight`` where the family has one module,
    ``generator/layers.0.weight`` where it has several.
    """
    return [
        (name if len(modules) == 1 else f"{module_name}/{name}", parameter)
        for module_name, module in modules.items()
        for name, parameter in module.named_parameters()
    ]
