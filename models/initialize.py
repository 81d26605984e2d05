"""Weights to start from, and which of them stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from orchestrator.errors import NotFoundError, SpecError
from orchestrator.models import huggingface
from orchestrator.models.base import Modules, parameter_names
from orchestrator.models.configs import FamilyConfig, HuggingFaceConfig, check_same_function
from orchestrator.models.deferred import FirstValues

_SHOWN = 5


@dataclass(frozen=True)
class LoadReport:
    """What became of weights that were loaded; ``str()`` is a sentence for a person."""

    matched: tuple[str, ...]
    """Parameters that took a weight."""
    missing: tuple[str, ...]
    """Parameters that found none and keep their initial value."""
    unused: tuple[str, ...]
    """Weights that no parameter took."""
    mismatched: tuple[str, ...]
    """Parameters whose weight has another shape, as ``name (theirs -> ours)``; they keep their initial value."""

    @property
    def is_complete(self) -> bool:
        """Whether every parameter took a weight."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} parameters took a weight"]
        for count, what in (
            (self.missing, "found none"),
            (self.mismatched, "have another shape"),
            (self.unused, "weights were not used"),
        ):
            if count:
                parts.append(f"{len(count)} {what}: {_listed(count)}")
        return "; ".join(parts)


class WeightFiles(Mapping[str, Tensor]):
    """The tensors of one ``.safetensors`` file, or of all in a folder, each read when it is asked for."""

    def __init__(self, path: str) -> None:
        place = Path(path)
        if not place.exists():
            raise NotFoundError(f"initialize.weights: there is no {path}")
        files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
        if not files:
            raise NotFoundError(f"initialize.weights: folder {path} holds no .safetensors file")
        self._file_of: dict[str, Path] = {}
        for file in files:
            try:
                with safe_open(file, framework="pt") as opened:
                    self._file_of.update(dict.fromkeys(opened.keys(), file))
            except SafetensorError as error:
                raise SpecError(f"initialize.weights: {file} is not a safetensors file: {error}") from error

    def __getitem__(self, name: str) -> Tensor:
        with safe_open(self._file_of[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor

    def shapes(self) -> dict[str, Tensor]:
        """Tensors without memory by the same names."""
        found = {}
        for file in set(self._file_of.values()):
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (no mapping)
                    found[name] = torch.empty(opened.get_slice(name).get_shape(), device="meta")
        return {name: found[name] for name in self}

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def is_weight_folder(path: str) -> bool:
    """Whether it is a folder of safetensors files as people hand them on, not of a run's checkpoint."""
    place = Path(path)
    return any(place.glob("*.safetensors")) and not (place / "manifest.json").exists()


def load_weights(
    modules: Modules,
    path: str,
    *,
    prefix: str = "",
    into: str = "",
    strict: bool = True,
    config: FamilyConfig | None = None,
    grows: bool = False,
    values: FirstValues | None = None,
) -> LoadReport:
    """Put the weights of a safetensors file or folder in place; see ``place_weights``.

    With the family's config, files of the same architecture with Hugging Face's names are understood too, and weights of
    another function are refused.

    Raises:
        SpecError: as ``place_weights``; or the weights are of another function than the config's, as far as their
            ``config.json`` and their names tell.
    """
    files = WeightFiles(path)
    if config is not None:
        check_same_function(config, path, strict=strict, grows=grows)
    weights: Mapping[str, Tensor] = files
    shapes: Mapping[str, Tensor] = files.shapes()
    if isinstance(config, HuggingFaceConfig):
        from orchestrator.models.transformers_models import renamed

        weights, shapes = (renamed(modules["model"], named) for named in (weights, shapes))
    elif config is not None and huggingface.recognizes(config, weights):
        huggingface.refuse_untied(config, weights)
        weights, shapes = (huggingface.from_huggingface(config, named) for named in (weights, shapes))
    report = place_weights(
        modules,
        weights,
        shapes=shapes,
        prefix=prefix,
        into=into,
        strict=strict,
        vocabulary=getattr(config, "vocabulary", None) if grows else None,
        values=values,
    )
    if strict and config is not None and (further := huggingface.of_layers(report.unused)):
        raise SpecError(
            f"initialize.weights: {path} holds weights of layers that the model lacks: {_listed(further)}; it would compute"
            " something else without them (initialize.strict: false leaves them out)"
        )
    return report


def place_weights(
    modules: Modules,
    weights: Mapping[str, Tensor],
    *,
    shapes: Mapping[str, Tensor] | None = None,
    prefix: str = "",
    into: str = "",
    strict: bool = True,
    vocabulary: int | None = None,
    values: FirstValues | None = None,
) -> LoadReport:
    """Put weights in place by name, and give averages that got none their source's.

    Args:
        modules: whose parameters are named as ``parameter_names`` does, with or without ``model/`` in front.
        weights: tensors by name.
        shapes: the same names, with tensors that need not be read to know their shapes. Default: ``weights``.
        prefix: only names that begin with it are taken, and it is cut off.
        into: put before each name after that.
        strict: refuse where a parameter finds no weight of its shape.
        vocabulary: so many tokens the model has, where the weights may have fewer: parameters with a row for each keep the
            rows that there are, and further ones begin as their mean.
        values: of modules that were built without memory: they will read each weight when its parameter takes memory.

    Raises:
        SpecError: nothing matched, or not everything did and ``strict`` holds.
    """
    given = {
        _bare(into + name.removeprefix(prefix), modules): name for name in weights if name.startswith(prefix)
    }
    matched, missing, mismatched = [], [], []
    for name, parameter in parameter_names(modules):
        if name not in given:
            missing.append(name)
            continue
        weight = (shapes or weights)[given[name]]
        if _grows(weight, parameter, vocabulary):
            _place(parameter, partial(_grown, weights, given[name], len(parameter)), values)
            matched.append(name)
            continue
        if weight.shape != parameter.shape:
            mismatched.append(f"{name} ({_shape(weight)} -> {_shape(parameter)})")
            continue
        _place(parameter, partial(weights.__getitem__, given[name]), values)
        matched.append(name)
    for name in _follow_sources(modules, missing, values):
        missing.remove(name)
        matched.append(name)
    used = {*matched, *(entry.partition(" (")[0] for entry in mismatched)}
    unused = [name for own, name in given.items() if own not in used]
    report = LoadReport(tuple(matched), tuple(missing), tuple(unused), tuple(mismatched))
    if not matched:
        raise SpecError(
            f"initialize.weights: no weight fits (prefix {prefix!r}, into {into!r}): the file has names like"
            f" {_listed(list(weights))}, the model like {_listed([n for n, _ in parameter_names(modules)])}"
        )
    if strict and not report.is_complete:
        raise SpecError(
            f"initialize.weights: {report}; set initialize.strict: false to keep those parameters' initial values"
        )
    return report


def _grows(weight: Tensor, parameter: Tensor, vocabulary: int | None) -> bool:
    return (
        vocabulary is not None
        and weight.shape[1:] == parameter.shape[1:]
        and weight.shape[0] < parameter.shape[0] == vocabulary
    )


def _grown(weights: Mapping[str, Tensor], name: str, rows: int) -> Tensor:
    """A weight with further rows, each the mean of those that there are."""
    weight = weights[name].float()
    mean = weight.mean(dim=0, keepdim=True)
    return torch.cat([weight, mean.expand(rows - len(weight), *weight.shape[1:])])


@torch.no_grad()
def _place(parameter: nn.Parameter, read: Callable[[], Tensor], values: FirstValues | None) -> None:
    """Give a parameter a value: now, or once it has memory."""
    if values is None:
        parameter.copy_(read())
    else:
        values.give(parameter, read)


@torch.no_grad()
def restore(modules: Modules, weights: Mapping[str, Tensor]) -> None:
    """Put everything that a trained family holds in place: parameters and saved buffers as ``module/path``.

    Raises:
        SpecError: something is missing, left over or of another shape: the weights are another model's.
    """
    held = {
        f"{module_name}/{path}": tensor
        for module_name, module in modules.items()
        for path, tensor in (*module.named_parameters(), *_saved_buffers(module))
    }
    if differing := sorted(set(held) ^ set(weights)):
        raise SpecError(f"the weights are not this model's: {_listed(differing)} is only in one of the two")
    for name, tensor in held.items():
        if tensor.shape != weights[name].shape:
            raise SpecError(
                f"the weights are not this model's: {name} is {_shape(weights[name])}, not {_shape(tensor)}"
            )
        tensor.copy_(weights[name])


def _saved_buffers(module: nn.Module) -> list[tuple[str, Tensor]]:
    saved = module.state_dict(keep_vars=True)
    return [(path, buffer) for path, buffer in module.named_buffers() if path in saved]


def freeze(modules: Modules, patterns: tuple[str, ...]) -> list[str]:
    """Stop training parameters whose names match one of the patterns (``*`` as in a shell); returns their names.

    Raises:
        SpecError: a pattern matches nothing.
    """
    named = parameter_names(modules)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name, _ in named):
            raise SpecError(
                f"initialize.freeze: no parameter matches {pattern!r}; names are like"
                f" {_listed([name for name, _ in named])}"
            )
    frozen = [(name, p) for name, p in named if any(fnmatchcase(name, pattern) for pattern in patterns)]
    for _, parameter in frozen:
        parameter.requires_grad_(False)
    return [name for name, _ in frozen]


def _follow_sources(modules: Modules, missing: list[str], values: FirstValues | None) -> list[str]:
    """Names of parameters of averages that found no weight, set to their source's."""
    sources: dict[str, nn.Module] = {
        name: modules[of]
        for name, module in modules.items()
        if isinstance(of := getattr(module, "average_of", 0), str)
    }
    followed = []
    for module_name, source in sources.items():
        theirs = dict(source.named_parameters())
        for path, parameter in modules[module_name].named_parameters():
            if f"{module_name}/{path}" in missing:
                of = values.of if values is not None else Tensor.detach
                _place(parameter, partial(of, theirs[path]), values)
                followed.append(f"{module_name}/{path}")
    return followed


def _bare(name: str, modules: Modules) -> str:
    """The name as ``parameter_names`` writes it: without its module's where there is only one."""
    return name.removeprefix(f"{next(iter(modules))}/") if len(modules) == 1 else name


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
