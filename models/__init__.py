"""The architecture families: one visible table, each imported on use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.models.base import Modules, Objective
    from orchestrator.models.configs import FamilyConfig, ObjectiveConfig

FAMILIES = {
    "mlp": "orchestrator.models.mlp",
    "cnn": "orchestrator.models.cnn",
    "rnn": "orchestrator.models.recurrent",
    "lstm": "orchestrator.models.recurrent",
    "gru": "orchestrator.models.recurrent",
    "gpt": "orchestrator.models.gpt",
    "bert": "orchestrator.models.bert",
    "gan": "orchestrator.models.gan",
    "autoencoder": "orchestrator.models.autoencoder",
}
"""Family name -> module with ``build(config, objective) -> Modules``."""


def build_modules(config: FamilyConfig, objective: ObjectiveConfig) -> Modules:
    """The family's modules by name, built on the current default device; the objective decides the last layer."""
    modules: Modules = import_module(FAMILIES[config.family]).build(config, objective)
    return modules


def build_objective(config: FamilyConfig, objective: ObjectiveConfig) -> Objective:
    """The objective that goes with a family, from ``models/objectives``."""
    from orchestrator.models.objectives import make_objective

    return make_objective(config, objective)
