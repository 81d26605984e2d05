"""The architecture families: one visible table, each imported on use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.models.base import Modules
    from orchestrator.models.configs import FamilyConfig, ObjectiveConfig

FAMILIES = {
    "mlp": "orchestrator.models.mlp",
    "cnn": "orchestrator.models.cnn",
}
"""Family name -> module with ``build(config) -> Modules``."""


def build_modules(config: FamilyConfig) -> Modules:
    """The family's modules by name, built on the current default device."""
    modules: Modules = import_module(FAMILIES[config.family]).build(config)
    return modules


def build_objective(config: FamilyConfig, objective: ObjectiveConfig) -> Any:
    """The objective that goes with a family, from ``models/objectives.py``."""
    from orchestrator.models.objectives import make_objective

    return make_objective(config, objective)
