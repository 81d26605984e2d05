"""The architecture families: one visible table, each imported on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.registry import load

if TYPE_CHECKING:
    from orchestrator.models.base import Modules, Objective
    from orchestrator.models.configs import FamilyConfig, ObjectiveConfig

FAMILIES = {
    "mlp": "orchestrator.models.mlp:build",
    "cnn": "orchestrator.models.cnn:build",
    "rnn": "orchestrator.models.recurrent:build",
    "lstm": "orchestrator.models.recurrent:build",
    "gru": "orchestrator.models.recurrent:build",
    "gpt": "orchestrator.models.gpt:build",
    "bert": "orchestrator.models.bert:build",
    "gan": "orchestrator.models.gan:build",
    "autoencoder": "orchestrator.models.autoencoder:build",
}
"""Family -> its ``build(config, objective) -> Modules``, imported on use."""


def build_modules(config: FamilyConfig, objective: ObjectiveConfig) -> Modules:
    """The family's modules by name, built on the current default device; the objective decides the last layer."""
    modules: Modules = load(FAMILIES, config.family, "family")(config, objective)
    return modules


def build_objective(config: FamilyConfig, objective: ObjectiveConfig) -> Objective:
    """The objective that goes with a family, from ``models/objectives``."""
    from orchestrator.models.objectives import make_objective

    return make_objective(config, objective)
