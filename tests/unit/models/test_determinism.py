from __future__ import annotations

import pytest
from family_cases import CASES, Case
from torch import nn

from orchestrator.models import cnn
from orchestrator.models.determinism import first_without


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_family_has_deterministic_algorithms(case: Case) -> None:
    without = "CTCLoss" if case.objective.kind == "ctc" else None  # refused by name on GPUs
    assert first_without(case.config, case.objective) == without


def test_an_operation_without_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in CASES if case.name == "cnn-images")
    forward = cnn.Cnn.forward
    pool = nn.AdaptiveAvgPool2d(3)
    monkeypatch.setattr(cnn.Cnn, "forward", lambda self, image: forward(self, pool(image)))
    assert first_without(case.config, case.objective) == "AdaptiveAvgPool2d"
