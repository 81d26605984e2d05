"""An optimizer of a person's own, tried out on a few numbers when the job is planned: what it keeps, that a checkpoint of that
is all of it, and whether parts of parameters can be updated alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from orchestrator.errors import SpecError
from orchestrator.own_code import described
from orchestrator.spec.training import OptimizerSpec, TrainingSpec, TriedOptimizer
from orchestrator.strategies.optimizers import (
    OWN_FIELD,
    build_optimizer,
    moments_of,
    parameter_groups,
    restore_moments,
    set_learning_rate,
)

_SHAPES = {"layer.weight": (6, 4), "layer.bias": (4,)}
_STEPS = 3
_TAKEN = {"parameter", "buffer", "ema", "step"}
"""Names in a checkpoint that are no moment's."""

Numbers = Mapping[str, Tensor]


def with_tried(training: TrainingSpec) -> TrainingSpec:
    """The section with what trying its optimizers tells.

    Raises:
        SpecError: one can't be made, doesn't go by its groups, or keeps what can't be saved.
    """
    phases = {phase: _with_tried(one) for phase, one in training.phase_optimizers.items()}
    return training.model_copy(
        update={"optimizer": _with_tried(training.optimizer), "phase_optimizers": phases}
    )


def _with_tried(spec: OptimizerSpec) -> OptimizerSpec:
    return spec if spec.factory is None else spec.model_copy(update={"tried": tried(spec)})


def tried(spec: OptimizerSpec) -> TriedOptimizer:
    """What an optimizer keeps and can do. Raises SpecError, see ``with_tried``."""
    whole = _Toy(spec, _numbers(0))
    for step in range(1, _STEPS):
        whole.take(step)
    found = whole.kept(_STEPS - 1)
    before = whole.values(), {name: moments_of(whole.optimizer, p) for name, p in whole.parameters.items()}
    kept = {name: {kind: one.clone() for kind, one in moments.items()} for name, moments in before[1].items()}
    whole.take(_STEPS)
    _refuse_unsaved(spec.model_copy(update={"tried": found}), before[0], kept, whole.values())
    _refuse_fixed_rate(spec)
    shards = _same(whole.values(), lambda: _rows(spec))
    partitions = shards and _same(whole.values(), lambda: _flat(spec))
    return found.model_copy(update={"shards": shards, "partitions": partitions})


class _Toy:
    """A few parameters and the optimizer over them."""

    def __init__(self, spec: OptimizerSpec, values: Numbers) -> None:
        self._spec = spec
        self.parameters = {name: nn.Parameter(value.clone()) for name, value in values.items()}
        self.optimizer: Any = build_optimizer(
            parameter_groups(self.parameters.items(), spec), spec, torch.device("cpu")
        )
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            raise self.error(f"must return a torch.optim.Optimizer, not {type(self.optimizer).__name__}")
        there = [id(p) for group in self.optimizer.param_groups for p in group["params"]]
        if sorted(there) != sorted(id(p) for p in self.parameters.values()):
            raise self.error("must return an optimizer over exactly the parameters that it was given")

    def error(self, problem: str) -> SpecError:
        return SpecError(f"{OWN_FIELD}: {self._spec.factory} {problem}")

    def values(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    def take(self, step: int, factor: float = 1.0, gradients: Numbers | None = None) -> None:
        """Update with the step's gradients."""
        for name, gradient in (gradients or _numbers(step)).items():
            self.parameters[name].grad = gradient.clone()
        set_learning_rate(self.optimizer, self._spec.learning_rate * factor)
        try:
            self.optimizer.step()
        except Exception as error:  # whatever a person's step raises
            raise self.error(f"made an optimizer whose step failed: {described(error)}") from error

    def kept(self, updates: int) -> TriedOptimizer:
        """What it keeps for a parameter."""
        names: set[str] = set()
        counts: Literal["tensor", "number", "none"] = "none"
        for name, parameter in self.parameters.items():
            for kind, value in self.optimizer.state.get(parameter, {}).items():
                if kind == "step" and _is_number(value) and float(value) == updates:
                    counts = "tensor" if isinstance(value, Tensor) else "number"
                elif kind in _TAKEN or not _like(value, parameter):
                    raise self.error(
                        f"keeps {kind!r} ({_told(value)}) for {name} of shape {tuple(parameter.shape)}; only fp32 tensors of the"
                        " parameter's shape can be saved and shared out again, and how many updates were made, as 'step'"
                    )
                else:
                    names.add(kind)
        if others := [
            key for key in self.optimizer.state if not any(key is p for p in self.parameters.values())
        ]:
            raise self.error(
                f"keeps state that is no parameter's ({str(others[0])[:40]}), which can't be saved"
            )
        return TriedOptimizer(moments=tuple(sorted(names)), counts=counts)


def _refuse_unsaved(
    spec: OptimizerSpec, values: Numbers, moments: Mapping[str, Numbers], expected: Numbers
) -> None:
    """Raises SpecError where one that goes on from what a checkpoint keeps is not what it was."""
    resumed = _Toy(spec, values)
    for name, parameter in resumed.parameters.items():
        if moments[name]:
            restore_moments(resumed.optimizer, parameter, moments[name], _STEPS - 1, spec)
    resumed.take(_STEPS)
    if not all(torch.equal(value, expected[name]) for name, value in resumed.values().items()):
        raise resumed.error(
            "keeps something outside of its state by parameter (in itself or in its groups) that changes its updates: a run"
            " that goes on from a checkpoint would not be the same"
        )


def _refuse_fixed_rate(spec: OptimizerSpec) -> None:
    """Raises SpecError where the learning rate of the groups, which the schedule moves, is not what it goes by."""
    still = _Toy(spec, _numbers(0))
    still.take(1, factor=0.0)
    if not all(torch.equal(value, _numbers(0)[name]) for name, value in still.values().items()):
        raise still.error(
            "does not go by the lr of its groups: it moves parameters at a learning rate of 0, so no schedule would reach it"
        )


def _same(expected: Numbers, made: Callable[[], Numbers]) -> bool:
    """Whether parts came to what the whole did; those that failed did not."""
    try:
        got = made()
    except SpecError:
        return False
    return all(torch.allclose(got[name], value, rtol=1e-5, atol=1e-7) for name, value in expected.items())


def _rows(spec: OptimizerSpec) -> Numbers:
    """Two optimizers with half of each parameter's rows, as FSDP's ranks have."""

    def half(values: Numbers, which: int) -> Numbers:
        return {name: value.chunk(2)[which] for name, value in values.items()}

    halves = []
    for which in range(2):
        toy = _Toy(spec, half(_numbers(0), which))
        for step in range(1, _STEPS + 1):
            toy.take(step, gradients=half(_numbers(step), which))
        halves.append(toy.values())
    return {name: torch.cat([one[name] for one in halves]) for name in _SHAPES}


def _flat(spec: OptimizerSpec) -> Numbers:
    """An optimizer whose parameters were exchanged for flat ones after it was made, as DeepSpeed does."""
    toy = _Toy(spec, _numbers(0))
    names = {id(parameter): name for name, parameter in toy.parameters.items()}
    for group in toy.optimizer.param_groups:
        for at, parameter in enumerate(group["params"]):
            name = names[id(parameter)]
            toy.parameters[name] = group["params"][at] = nn.Parameter(parameter.detach().flatten())
    for step in range(1, _STEPS + 1):
        toy.take(step, gradients={name: value.flatten() for name, value in _numbers(step).items()})
    return {name: value.reshape(_SHAPES[name]) for name, value in toy.values().items()}


def _numbers(seed: int) -> dict[str, Tensor]:
    """Of each parameter, always the same."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in _SHAPES.items()}


def _is_number(value: Any) -> bool:
    return value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float)


def _like(value: Any, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.dtype == torch.float32


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__
