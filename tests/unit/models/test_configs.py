from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from orchestrator.models import FAMILIES
from orchestrator.models.configs import (
    BertConfig,
    BinaryConfig,
    CausalLmConfig,
    ClassificationConfig,
    ForecastingConfig,
    GptConfig,
    LstmConfig,
    MaskedLmConfig,
    MlpConfig,
    ModelConfig,
    ObjectiveSection,
    default_objective,
)
from orchestrator.models.objectives import OBJECTIVES

FAMILY_CONFIGS = {
    config.model_fields["family"].default: config for config in get_args(get_args(ModelConfig)[0])
}


def test_every_family_has_a_module_a_debug_size_and_an_own_objective():
    assert set(FAMILY_CONFIGS) == set(FAMILIES)
    for family, config in FAMILY_CONFIGS.items():
        if family in ("custom", "huggingface"):  # what they bring knows its sizes and its objective
            continue
        assert "debug" in config.SIZES
        assert default_objective(config()).kind == config.OBJECTIVES[0]
        assert set(config.OBJECTIVES) <= set(OBJECTIVES)
        assert set(config.FROM_DATA) <= set(config.model_fields)
        for name in config.SIZES:
            TypeAdapter(ModelConfig).validate_python({"family": family, "size": name})


def test_every_objective_has_a_section():
    for kind in OBJECTIVES:
        own = {"factory": "mine:Objective"} if kind == "custom" else {}
        assert TypeAdapter(ObjectiveSection).validate_python({"kind": kind, **own}).kind == kind


def test_fields_written_beside_a_size_win():
    config = GptConfig(size="124m", layers=3)
    assert (config.layers, config.width) == (3, 768)


def test_a_size_that_does_not_exist_is_refused_with_those_that_do():
    with pytest.raises(ValidationError, match="gpt has no size '13b'; it has debug, nano, 124m"):
        GptConfig(size="13b")


@pytest.mark.parametrize(
    ("config", "objective", "needed"),
    [
        (MlpConfig(), ClassificationConfig(), {"in_features", "outputs"}),
        (MlpConfig(), BinaryConfig(), {"in_features"}),
        (LstmConfig(), CausalLmConfig(), {"vocabulary"}),
        (LstmConfig(), ClassificationConfig(), {"vocabulary", "outputs"}),
        (LstmConfig(inputs="signal"), ClassificationConfig(), {"channels", "outputs"}),
        (LstmConfig(), ForecastingConfig(), {"series", "past", "horizon"}),
        (BertConfig(), MaskedLmConfig(), {"vocabulary"}),
        (BertConfig(), ClassificationConfig(), {"vocabulary", "outputs"}),
    ],
)
def test_what_comes_from_the_data_depends_on_the_objective(config, objective, needed: set[str]):
    assert set(config.needed(objective)) == needed


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 100, "heads": 3}, "heads 3 does not divide width 100"),
        (
            {"width": 96, "heads": 6, "heads_per_key_value": 4},
            "heads_per_key_value 4 does not divide heads 6",
        ),
        (
            {"width": 15, "heads": 5, "positions": "rotary"},
            "rotary positions need an even width per head, not 3",
        ),
    ],
)
def test_heads_that_do_not_fit_are_refused(fields, message: str):
    with pytest.raises(ValidationError, match=message):
        GptConfig(**fields)


def test_configs_and_tensor_specs_import_no_torch():
    code = (
        "import sys, orchestrator.models.configs, orchestrator.models.sizes; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
