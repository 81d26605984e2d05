"""Low-rank adapters on the linear layers of a model, by ``peft``: put in, trained alone, merged, written in its format."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from fnmatch import fnmatchcase
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._guards import active_fake_mode

from orchestrator.errors import SpecError
from orchestrator.models.base import Modules
from orchestrator.models.configs.lora import LoraSpec
from orchestrator.models.deferred import FirstValues, record_more

_NAME = "default"
"""What peft calls an adapter that has no name."""
_SHOWN = 6
_AROUND_THEIR_LAYERS = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Layers of torch that take the weights of linear layers inside without calling these."""


def add_adapters(
    modules: Modules, lora: LoraSpec, seed: int, values: FirstValues | None = None
) -> FirstValues | None:
    """Put adapters beside the layers that the patterns name, and let nothing else be trained but ``also_train``.

    Args:
        modules: of a model, changed in place; a layer's own weight is called ``....base_layer.weight`` from here on.
        lora: what is to be adapted.
        seed: of the adapters' first values.
        values: of modules that were built without memory.

    Returns:
        ``values`` with those of the adapters.

    Raises:
        SpecError: peft is missing, a pattern matches nothing, or a layer can't have an adapter.
    """
    if len(modules) > 1:
        raise SpecError(
            f"initialize.lora: adapters are for models of one module, and this one has {', '.join(modules)}"
        )
    (module,) = modules.values()
    targets = _targets(module, lora.targets)
    trained = set(_also_trained(module, lora.also_train))
    if twice := sorted(name for name in trained if name.rpartition(".")[0] in targets):
        raise SpecError(
            f"initialize.lora.also_train: {twice[0]} is of a layer that has an adapter; train it in one way of the two"
        )
    inject = partial(_inject, module, targets, lora)
    if values is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject()
    else:
        values = record_more(values, inject, modules, seed)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(is_adapter(name) or name in trained)
    return values


def is_adapter(name: str) -> bool:
    """Whether a parameter is of an adapter, not of the model below."""
    return f".lora_A.{_NAME}." in name or f".lora_B.{_NAME}." in name


def below(name: str) -> str:
    """A parameter's name in the model without adapters."""
    return name.replace(".base_layer.", ".")


def digest_of_base(modules: Modules, values: FirstValues | None) -> str:
    """SHA-256 over names, shapes and fp32 values of what is not trained, whatever files it came from."""
    digest = hashlib.sha256()
    (module,) = modules.values()
    frozen = {below(name): p for name, p in module.named_parameters() if not p.requires_grad}
    for name, parameter in sorted(frozen.items()):
        value = value_of(parameter, values).contiguous()
        digest.update(f"{name}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def value_of(tensor: Tensor, values: FirstValues | None) -> Tensor:
    """The value of a parameter, whether or not its module has memory."""
    if not tensor.is_meta:
        return tensor.detach()
    assert values is not None
    return values.of(tensor)


def merged(
    modules: Modules, values: FirstValues | None, trained: Mapping[str, Tensor]
) -> dict[str, Callable[[], Tensor]]:
    """Each parameter of the model without adapters, what they add included: ``module/path`` -> what makes it.

    Args:
        modules: with adapters, as ``add_adapters`` leaves them.
        values: of what has no memory.
        trained: the values of all that is trained, by ``module/path``.
    """
    ((module_name, module),) = modules.items()
    layers = dict(module.named_modules())
    made: dict[str, Callable[[], Tensor]] = {}
    for name, parameter in module.named_parameters():
        ours = f"{module_name}/{name}"
        if is_adapter(name):
            continue
        if parameter.requires_grad:
            made[f"{module_name}/{below(name)}"] = partial(trained.__getitem__, ours)
            continue
        layer = (
            layers[name.removesuffix(".base_layer.weight")] if name.endswith(".base_layer.weight") else None
        )
        made[f"{module_name}/{below(name)}"] = partial(
            _with_what_is_added, partial(value_of, parameter, values), layer, trained, ours
        )
    return made


def _with_what_is_added(
    base: Callable[[], Tensor], layer: Any, trained: Mapping[str, Tensor], name: str
) -> Tensor:
    if layer is None:
        return base()
    prefix = name.removesuffix("base_layer.weight")
    down, up = (trained[f"{prefix}lora_{part}.{_NAME}.weight"] for part in "AB")
    added = (up @ down) * layer.scaling[_NAME]
    return base() + (added.t() if layer.fan_in_fan_out else added)


def to_peft(
    modules: Modules, lora: LoraSpec, trained: Mapping[str, Tensor], base: str
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """``adapter_config.json`` and the tensors of ``adapter_model.safetensors``, as ``PeftModel.from_pretrained`` reads them
    onto the model without adapters: of ``transformers``, or of a family of ours.

    Args:
        modules: with adapters.
        lora: what is adapted.
        trained: the values of all that is trained, by ``module/path``.
        base: where the model's own weights are; empty where they are nowhere.

    Raises:
        SpecError: a layer of which only some parameters are trained, which the format can't say.
    """
    ((module_name, module),) = modules.items()
    layers = {name: layer for name, layer in module.named_modules() if hasattr(layer, "lora_A")}
    whole = {name.rpartition(".")[0] for name in _also_trained(module, lora.also_train)}
    for name in whole:
        if left := [path for path, p in module.get_submodule(name).named_parameters() if not p.requires_grad]:
            raise SpecError(
                f"export: peft's format keeps whole layers, and of {_theirs(name)} {left[0]} is not trained; export the"
                " merged model (without --adapters)"
            )
    first = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base or None,
        "inference_mode": True,
        "r": lora.rank,
        "lora_alpha": lora.scale * lora.rank,
        "lora_dropout": lora.dropout,
        "bias": "none",
        "fan_in_fan_out": bool(first.fan_in_fan_out),
        "target_modules": sorted(map(_theirs, layers)),
        "modules_to_save": sorted(map(_theirs, whole)) or None,
    }
    tensors = {}
    for name, value in trained.items():
        path = _theirs(name.removeprefix(f"{module_name}/")).replace(f".{_NAME}.", ".")
        tensors[f"base_model.model.{path}"] = value.contiguous()
    return config, tensors


def config_text(config: Mapping[str, Any]) -> str:
    """``adapter_config.json``."""
    return json.dumps(config, indent=2) + "\n"


def refuse_unused(modules: Modules) -> None:
    """After a backward: raises SpecError for an adapter that forward has not called, since it would never learn."""
    for module in modules.values():
        for name, parameter in module.named_parameters():
            if is_adapter(name) and parameter.requires_grad and parameter.grad is None:
                layer = name.partition(".lora_")[0]
                raise SpecError(
                    f"initialize.lora.targets: forward takes the weight of {layer} without calling the layer, so an adapter"
                    " beside it would add nothing; leave it out"
                )


def _theirs(name: str) -> str:
    """A name as the model has it that adapters are loaded onto: theirs, where it is one of ``transformers``."""
    return name.removeprefix("network.")


def _inject(module: nn.Module, targets: list[str], lora: LoraSpec) -> None:
    try:
        import peft
    except ImportError:
        raise SpecError(
            "initialize.lora needs peft: install trainwright[hf], here and on the workers (environment.pip)"
        ) from None
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.scale * lora.rank,  # type: ignore[arg-type]  # a float serves as well
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias="none",
    )
    with warnings.catch_warnings(), _in_place():
        warnings.simplefilter("ignore")  # it tells of layers that are stored transposed, and sees to them
        peft.inject_adapter_in_model(config, module, adapter_name=_NAME)
    adapted = {name for name, layer in module.named_modules() if hasattr(layer, "lora_A")}
    assert adapted == set(targets), adapted ^ set(targets)


def _in_place() -> AbstractContextManager[Any]:
    """Adapters are made where the model is, so peft need not move them there; fake tensors can't be moved."""
    if active_fake_mode() is None:
        return nullcontext()
    return mock.patch.object(nn.Module, "to", lambda module, *_, **__: module)


def _targets(module: nn.Module, patterns: tuple[str, ...]) -> list[str]:
    """Names of the layers that get an adapter."""
    layers = {name: layer for name, layer in module.named_modules() if name}
    found: dict[str, None] = {}
    for pattern in patterns:
        matched = [name for name in layers if fnmatchcase(name, pattern)]
        fitting = [name for name in matched if _is_linear(layers[name])]
        if not fitting:
            what = f"only {matched[0]} ({type(layers[matched[0]]).__name__})" if matched else "no layer"
            raise SpecError(
                f"initialize.lora.targets: {pattern!r} matches {what}; linear layers, which can have an adapter, are"
                f" {_kinds_of_names([name for name, layer in layers.items() if _is_linear(layer)])}"
            )
        found |= dict.fromkeys(fitting)
    for name in found:
        if problem := _problem(module, layers, name):
            raise SpecError(f"initialize.lora.targets: {name} {problem}; leave it out")
    return list(found)


def _problem(module: nn.Module, layers: Mapping[str, nn.Module], name: str) -> str:
    """Why a linear layer can't have an adapter."""
    for other, layer in layers.items():
        shares = any(mine is p for p in layer.parameters(recurse=False) for mine in layers[name].parameters())
        if other != name and shares:
            return f"shares its weight with {other}, which an adapter beside one of them could not be merged into"
        if name.startswith(f"{other}.") and isinstance(layer, _AROUND_THEIR_LAYERS):
            return f"is a part of {other} ({type(layer).__name__}), which takes its weight without calling it"
    return ""


def _is_linear(layer: nn.Module) -> bool:
    """Exactly torch's own, or the transposed one of ``transformers``: what inherits from them may do something else."""
    kind = type(layer)
    return kind is nn.Linear or (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")


def _kinds_of_names(names: list[str]) -> str:
    """Patterns that would match: each last name once."""
    ends = list(dict.fromkeys(f"*{name.rpartition('.')[2]}" for name in names))
    if not ends:
        return "not there in this model"
    return ", ".join(ends[:_SHOWN]) + (", ..." if len(ends) > _SHOWN else "")


def _also_trained(module: nn.Module, patterns: tuple[str, ...]) -> Iterator[str]:
    """Names of the parameters that are trained whole."""
    names = [name for name, _ in module.named_parameters() if not is_adapter(name)]
    for pattern in patterns:
        if not any(fnmatchcase(below(name), pattern) for name in names):
            raise SpecError(
                f"initialize.lora.also_train: no parameter matches {pattern!r}; names are like {', '.join(names[:_SHOWN])}"
            )
    for name in names:
        if any(fnmatchcase(below(name), pattern) for pattern in patterns):
            yield name
