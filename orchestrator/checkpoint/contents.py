"""The model of a checkpoint as tensors by name, whole: what adapters add is in the weights that they are beside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from orchestrator.checkpoint.format import Checkpoint
from orchestrator.checkpoint.reader import CheckpointReader
from orchestrator.checkpoint.start import Start, start_of
from orchestrator.errors import CheckpointError, SpecError
from orchestrator.models import adapters
from orchestrator.models.configs import FamilyConfig, ObjectiveConfig
from orchestrator.state import AVERAGE

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


class ModelTensors(Protocol):
    """Parameters and buffers by ``module/path``."""

    @property
    def shapes(self) -> Shapes:
        """Shape and dtype of each."""
        ...

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of a flattened tensor, on the CPU. Raises CheckpointError where damaged."""
        ...


@contextmanager
def model_tensors(
    saved: Checkpoint, config: FamilyConfig, objective: ObjectiveConfig, *, averaged: bool = False
) -> Iterator[ModelTensors]:
    """A checkpoint's model, or with the moving averages of what has one.

    Raises:
        CheckpointError: the checkpoint is damaged.
        SpecError, NotFoundError: averages are asked for, and it has none; it holds adapters, and the weights below them
            are others, or not there any more.
    """
    with CheckpointReader(saved) as reader:
        start = start_of(saved, config, objective)
        held = _Saved(reader, averaged)
        yield held if start is None else _Merged(start, held)


def trained_tensors(reader: CheckpointReader, *, averaged: bool) -> dict[str, Tensor]:
    """All parameters that a checkpoint holds, or their averages, whole, by ``module/path``."""
    return _Saved(reader, averaged).parameters()


class _Saved:
    """As a checkpoint holds them."""

    def __init__(self, reader: CheckpointReader, averaged: bool) -> None:
        there = reader.tensors()
        if averaged and not any(kind == AVERAGE for kind, _ in there):
            raise SpecError("--ema: the checkpoint holds no averages of the weights; train with training.ema")
        self._reader = reader
        self._names = {name: kind for kind, name in there if kind in ("parameter", "buffer")}
        self._kinds = {
            name: AVERAGE if averaged and (AVERAGE, name) in there else kind
            for name, kind in self._names.items()
        }

    @property
    def shapes(self) -> Shapes:
        held = self._reader.tensors()
        return {name: held[kind, name] for name, kind in self._kinds.items()}

    def read(self, name: str, start: int, stop: int) -> Tensor:
        return self._reader.read(self._kinds[name], name, start, stop)

    def parameters(self) -> dict[str, Tensor]:
        """All of them, whole."""
        shapes = {name: self.shapes[name][0] for name, kind in self._names.items() if kind == "parameter"}
        return {name: self.read(name, 0, math.prod(shape)).reshape(shape) for name, shape in shapes.items()}

    def buffers(self) -> Shapes:
        """Of the buffers alone."""
        return {name: found for name, found in self.shapes.items() if self._names[name] == "buffer"}


class _Merged:
    """Of a checkpoint that holds adapters: each tensor is made when it is asked for, and the last one kept."""

    def __init__(self, start: Start, held: _Saved) -> None:
        trained = held.parameters()
        expected = {
            f"{module_name}/{path}"
            for module_name, module in start.modules.items()
            for path, parameter in module.named_parameters()
            if parameter.requires_grad
        }
        if differing := sorted(expected ^ set(trained)):
            raise CheckpointError(
                f"its adapters are not this model's: {differing[0]} is only in one of the two"
            )
        self._made: dict[str, Callable[[], Tensor]] = adapters.merged(start.modules, start.values, trained)
        self._shapes = {
            f"{module_name}/{adapters.below(path)}": (tuple(parameter.shape), parameter.dtype)
            for module_name, module in start.modules.items()
            for path, parameter in module.named_parameters()
            if not adapters.is_adapter(path)
        }
        self._held, self._last = held, ("", torch.empty(0))

    @property
    def shapes(self) -> Shapes:
        return {**self._shapes, **self._held.buffers()}

    def read(self, name: str, start: int, stop: int) -> Tensor:
        if name not in self._made:
            return self._held.read(name, start, stop)
        if self._last[0] != name:
            self._last = (name, self._made[name]().contiguous().reshape(-1))
        return self._last[1][start:stop]
