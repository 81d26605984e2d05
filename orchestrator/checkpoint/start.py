"""A model as a run begins to train it: with its starting weights, its adapters, and what stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.checkpoint.format import Checkpoint
from orchestrator.checkpoint.weights import weights_at
from orchestrator.errors import SpecError
from orchestrator.models import adapters, build_with_values, initialize
from orchestrator.models.base import Modules
from orchestrator.models.configs import FamilyConfig, ObjectiveConfig, refuse_differences
from orchestrator.models.deferred import FirstValues
from orchestrator.models.initialize import LoadReport
from orchestrator.spec.job import InitializeSpec
from orchestrator.storage import absolute

ADAPTERS = "adapters"
"""Of a checkpoint's meta: what its adapters are of; nothing where it holds a whole model."""


@dataclass(frozen=True)
class Start:
    """A model that nothing has been learned by yet."""

    modules: Modules
    values: FirstValues | None
    """Of modules without memory."""
    report: LoadReport | None = None
    """What became of the weights to start from."""
    base: str = ""
    """Digest of the weights below its adapters; empty where it has none."""


def build_start(
    config: FamilyConfig, objective: ObjectiveConfig, start: InitializeSpec, *, base_dir: str, seed: int
) -> Start:
    """Build the model, let it take its weights, and let only that be trained which is to be.

    Args:
        config: of the model.
        objective: it decides the last layer.
        start: weights, adapters, and what is not trained.
        base_dir: that a relative path of weights starts from.
        seed: of first values.

    Raises:
        SpecError: the weights don't fit, a pattern matches nothing.
        NotFoundError, CheckpointError: there are no such weights.
    """
    modules, values = build_with_values(config, objective, seed)
    report = _take_weights(config, start, base_dir, modules, values) if start.weights else None
    if start.freeze:
        initialize.freeze(modules, start.freeze)
    if start.lora is None:
        return Start(modules, values, report)
    values = adapters.add_adapters(modules, start.lora, seed, values)
    if report is not None:
        _refuse_drawn(modules, report)
    return Start(modules, values, report, adapters.digest_of_base(modules, values))


def meta_of(start: InitializeSpec, *, base_dir: str, seed: int, base: str) -> dict[str, Any]:
    """What a checkpoint that holds no more than adapters says of the model below them; empty where it holds all."""
    if start.lora is None:
        return {}
    path = absolute(start.weights, base_dir) if start.weights else None
    return {"initialize": start.model_copy(update={"weights": path}).model_dump(), "seed": seed, "base": base}


def check_base(saved: Checkpoint, base: str) -> None:
    """Raises SpecError where a checkpoint's adapters are of other weights than those with this digest."""
    kept = saved.meta.get(ADAPTERS)
    if kept and kept["base"] != base:
        raise SpecError(
            f"initialize.weights: the weights of {kept['initialize']['weights'] or 'seed ' + str(kept['seed'])} are not those"
            f" that the adapters of step {saved.step} were trained beside; put them back"
        )


def start_of(saved: Checkpoint, config: FamilyConfig, objective: ObjectiveConfig) -> Start | None:
    """The model that a checkpoint's adapters are of, with these not yet in place; None where the checkpoint is whole.

    Raises:
        SpecError, NotFoundError, CheckpointError: its weights are not there any more, or are others.
    """
    kept: Mapping[str, Any] | None = saved.meta.get(ADAPTERS)
    if not kept:
        return None
    spec = InitializeSpec.model_validate(kept["initialize"])
    start = build_start(config, objective, spec, base_dir="/", seed=kept["seed"])
    check_base(saved, start.base)
    return start


def _take_weights(
    config: FamilyConfig, start: InitializeSpec, base_dir: str, modules: Modules, values: FirstValues | None
) -> LoadReport:
    assert start.weights is not None
    path = absolute(start.weights, base_dir)
    if path.endswith(".safetensors") or initialize.is_weight_folder(path):
        return initialize.load_weights(
            modules,
            path,
            prefix=start.prefix,
            into=start.into,
            strict=start.strict,
            config=config,
            grows=start.grow_vocabulary,
            values=values,
        )
    weights = weights_at(path)
    if not (start.prefix or start.into):  # a part of another model is another function in any case
        refuse_differences(config, weights.model, path, strict=start.strict, grows=start.grow_vocabulary)
    return initialize.place_weights(
        modules,
        weights,
        shapes=weights.shapes(),
        prefix=start.prefix,
        into=start.into,
        strict=start.strict,
        vocabulary=getattr(config, "vocabulary", None) if start.grow_vocabulary else None,
        values=values,
    )


def _refuse_drawn(modules: Modules, report: LoadReport) -> None:
    """Raises SpecError where a parameter found no weight and would not be trained either."""
    (module,) = modules.values()
    drawn = {*report.missing, *(name.partition(" ")[0] for name in report.mismatched)}
    frozen = {
        adapters.below(name) for name, parameter in module.named_parameters() if not parameter.requires_grad
    }
    if left := sorted(drawn & frozen):
        raise SpecError(
            f"initialize.lora: {left[0]} found no weight and would stay as it was drawn; name it in"
            " initialize.lora.also_train"
        )
