"""The objectives: one visible table, each imported on use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.errors import SpecError
from orchestrator.registry import load

if TYPE_CHECKING:
    from orchestrator.models.base import Objective
    from orchestrator.models.configs import FamilyConfig, ObjectiveConfig

OBJECTIVES = {
    "classification": "orchestrator.models.objectives.supervised:Classification",
    "regression": "orchestrator.models.objectives.supervised:Regression",
    "binary": "orchestrator.models.objectives.supervised:YesNo",
    "multilabel": "orchestrator.models.objectives.supervised:YesNo",
    "token_classification": "orchestrator.models.objectives.supervised:TokenClassification",
    "causal_lm": "orchestrator.models.objectives.language:CausalLm",
    "masked_lm": "orchestrator.models.objectives.language:MaskedLm",
    "sequence_to_sequence": "orchestrator.models.objectives.sequence_to_sequence:SequenceToSequence",
    "ctc": "orchestrator.models.objectives.ctc:Ctc",
    "forecasting": "orchestrator.models.objectives.forecasting:Forecasting",
    "reconstruction": "orchestrator.models.objectives.reconstruction:Reconstruction",
    "adversarial": "orchestrator.models.objectives.adversarial:Adversarial",
    "custom": "orchestrator.models.custom:build_objective",
}
"""Kind -> class, imported on use and called with the family's config and the objective's."""


def make_objective(config: FamilyConfig, objective: ObjectiveConfig) -> Objective:
    """The objective that goes with a family. Raises SpecError where the family can't be trained with it."""
    if objective.kind not in config.OBJECTIVES:
        raise SpecError(
            f"objective.kind: family {config.family} can't be trained with {objective.kind};"
            f" it can with {', '.join(config.OBJECTIVES)}"
        )
    if misfit := objective.misfit(config):
        raise SpecError(misfit)
    made: Objective = load(OBJECTIVES, objective.kind, "objective")(config, objective)
    return made
