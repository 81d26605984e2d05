"""A model and an objective of a person's own: what their functions return, checked, and its blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from orchestrator import own_code
from orchestrator.errors import SpecError
from orchestrator.models.base import Modules, Objective, parameter_names
from orchestrator.models.configs import CustomConfig, CustomObjectiveConfig, FamilyConfig, ObjectiveConfig

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_CONTRACT = (
    "phases",
    "trains",
    "inputs",
    "units_per_sample",
    "units",
    "loss",
    "evaluate",
    "after_step",
    "samples",
)
"""What an Objective has."""


def build(config: CustomConfig, objective: ObjectiveConfig) -> Modules:
    """What the factory returns, by name; each module knows its blocks.

    Raises:
        SpecError: the factory can't be imported, fails, or returns something else; a named class of blocks isn't there.
    """
    made = own_code.made_by(config.factory, "model.factory", config.config)
    modules = made if isinstance(made, dict) else {"model": made}
    wrong = [value for value in modules.values() if not isinstance(value, nn.Module)]
    if wrong or not modules:
        what = type(wrong[0]).__name__ if wrong else "an empty dict"
        raise SpecError(
            f"model.factory: {config.factory} must return an nn.Module or a dict of them by name, not {what}"
        )
    return with_blocks(modules, config.blocks)


def with_blocks(modules: Modules, names: tuple[str, ...] | None) -> Modules:
    """The same modules, each with its blocks: those named, or found. Raises SpecError for a name that isn't there."""
    for module in modules.values():
        object.__setattr__(module, "block_classes", _block_classes(module, names))
    _check_named(modules, names or ())
    return modules


def build_objective(config: FamilyConfig, objective: CustomObjectiveConfig) -> Objective:
    """What the objective's factory returns.

    Raises:
        SpecError: it can't be imported, fails, or returns no Objective.
    """
    made: Objective = own_code.made_by(objective.factory, "objective.factory", objective.config)
    if missing := [name for name in _CONTRACT if not hasattr(made, name)]:
        raise SpecError(
            f"objective.factory: {objective.factory} must return an Objective, but what it returns"
            f" ({type(made).__name__}) has no {', '.join(missing)}; see docs/your-own-model.md"
        )
    return made


def check_parameters(modules: Modules) -> None:
    """Raises SpecError for a parameter that no strategy can shard, and where there is none to train."""
    if not any(parameter.requires_grad for _, parameter in parameter_names(modules)):
        raise SpecError("model.factory: the model has no parameters to train")
    owners: dict[int, str] = {}
    for module_name, module in modules.items():
        for path, parameter in module.named_parameters():
            name = path if len(modules) == 1 else f"{module_name}/{path}"
            if problem := _problem(parameter):
                raise SpecError(f"model.factory: parameter {name} {problem}")
            if owners.setdefault(id(parameter), module_name) != module_name:
                raise SpecError(
                    f"model.factory: parameter {name} is also in module {owners[id(parameter)]!r}; each module is"
                    " sharded by itself, so put what shares parameters into one module"
                )


def blocks_in(module: nn.Module) -> Counter[str]:
    """Class name -> how many blocks of it are sharded and recomputed one at a time."""
    kinds: tuple[type[nn.Module], ...] = getattr(module, "block_classes", ())
    return Counter(type(child).__name__ for child in _outermost(module, kinds))


def statistics_of_shares(modules: Modules) -> list[str]:
    """Layers whose result depends on how the batch is split among workers."""
    return [
        path
        for module in modules.values()
        for path, child in module.named_modules()
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, nn.SyncBatchNorm)
    ]


def _problem(parameter: nn.Parameter) -> str:
    if isinstance(parameter, UninitializedParameter):
        return "is of a lazy layer, whose shape only its first forward says; give the layer its input size"
    if parameter.dtype != torch.float32:
        return (
            f"is {str(parameter.dtype).removeprefix('torch.')}; parameters are kept in float32, and"
            " training.precision says what is computed in"
        )
    if parameter.layout != torch.strided:
        return "is sparse; make it a dense tensor"
    if parameter.dim() == 0:
        return "is a single number without a dimension, which can't be sharded; make it of shape (1,)"
    return ""


def _block_classes(module: nn.Module, names: tuple[str, ...] | None) -> tuple[type[nn.Module], ...]:
    if names is not None:
        found = {type(child) for child in module.modules() if type(child).__name__ in names}
        return tuple(sorted(found, key=lambda kind: kind.__qualname__))
    declared: Any = getattr(module, "block_classes", None)
    return tuple(declared) if declared is not None else _repeated(module)


def _repeated(module: nn.Module) -> tuple[type[nn.Module], ...]:
    """The outermost classes of layers made of layers that come at least twice, and share no parameter with others."""
    composite = [
        type(child)
        for child in module.modules()
        if child is not module
        and not isinstance(child, _CONTAINERS)
        and any(True for _ in child.children())
        and any(True for _ in child.parameters())
    ]
    sharing = {type(child) for child in _sharing(module)}
    repeated = tuple(kind for kind, times in Counter(composite).items() if times > 1 and kind not in sharing)
    return tuple(dict.fromkeys(type(child) for child in _outermost(module, repeated)))


def _sharing(module: nn.Module) -> Iterator[nn.Module]:
    """Modules of which a parameter is also in a module outside of them: an encoder that shares its embedding with a decoder."""
    places: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), []).append(name)
    shared = [names for names in places.values() if len(names) > 1]
    for path, child in module.named_modules(remove_duplicate=False):
        inside = f"{path}."
        if path and any(0 < sum(name.startswith(inside) for name in names) < len(names) for names in shared):
            yield child


def _outermost(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, kinds):
            yield child
        else:
            yield from _outermost(child, kinds)


def _check_named(modules: Modules, names: tuple[str, ...]) -> None:
    there = {
        type(child).__name__
        for module in modules.values()
        for child in module.modules()
        if child is not module
    }
    if missing := [name for name in names if name not in there]:
        raise SpecError(
            f"model.blocks: the model has no module of class {missing[0]!r}; there is {', '.join(sorted(there)[:24])}"
        )
    sharing = {type(child).__name__ for module in modules.values() for child in _sharing(module)}
    if both := [name for name in names if name in sharing]:
        raise SpecError(
            f"model.blocks: a {both[0]} shares a parameter with a module outside of it, so it can't be sharded by itself;"
            " name smaller blocks, or leave it out to have them found"
        )
