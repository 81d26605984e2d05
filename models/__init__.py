"""The architecture families: one visible table, each imported on use."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from orchestrator.registry import load

if TYPE_CHECKING:
    from orchestrator.models.base import Modules, Objective
    from orchestrator.models.configs import FamilyConfig, ObjectiveConfig
    from orchestrator.models.deferred import FirstValues

FAMILIES = {
    "mlp": "orchestrator.models.mlp:build",
    "cnn": "orchestrator.models.cnn:build",
    "rnn": "orchestrator.models.recurrent:build",
    "lstm": "orchestrator.models.recurrent:build",
    "gru": "orchestrator.models.recurrent:build",
    "gpt": "orchestrator.models.gpt:build",
    "bert": "orchestrator.models.bert:build",
    "transformer": "orchestrator.models.transformer:build",
    "gan": "orchestrator.models.gan:build",
    "autoencoder": "orchestrator.models.autoencoder:build",
    "custom": "orchestrator.models.custom:build",
    "huggingface": "orchestrator.models.transformers_models:build",
}
"""Family -> its ``build(config, objective) -> Modules``, imported on use."""


def build_modules(config: FamilyConfig, objective: ObjectiveConfig) -> Modules:
    """The family's modules by name, built on the current default device; the objective decides the last layer."""
    modules: Modules = load(FAMILIES, config.family, "family")(config, objective)
    return modules


def build_with_values(
    config: FamilyConfig, objective: ObjectiveConfig, seed: int
) -> tuple[Modules, FirstValues | None]:
    """The modules without memory and the first values of their tensors; where the config says that they can't be built
    so, modules with memory and values, and None.
    """
    import torch

    from orchestrator.models.deferred import build_deferred

    if config.builds_deferred:
        return build_deferred(partial(build_modules, config, objective), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_modules(config, objective), None


def build_objective(config: FamilyConfig, objective: ObjectiveConfig) -> Objective:
    """The objective that goes with a family, from ``models/objectives``."""
    from orchestrator.models.objectives import make_objective

    return make_objective(config, objective)
