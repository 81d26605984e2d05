"""What a job of family huggingface is told before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from orchestrator.errors import SpecError
from orchestrator.models import build_modules
from orchestrator.models.configs import (
    CausalLmConfig,
    HuggingFaceConfig,
    default_objective,
    refuse_differences,
    with_architecture,
)
from orchestrator.models.initialize import load_weights

transformers = pytest.importorskip("transformers")

QWEN = {
    "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 24,
}  # fmt: skip
CAUSAL = CausalLmConfig()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = transformers.AutoConfig.for_model("qwen2", **QWEN)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "qwen")
    return tmp_path / "qwen"


def asked(**fields: Any) -> HuggingFaceConfig:
    return HuggingFaceConfig(**{"architecture": "qwen", **fields})


def test_the_plan_carries_the_whole_architecture(folder: Path):
    config = with_architecture(asked(config={"num_hidden_layers": 1}), str(folder.parent))
    assert isinstance(config, HuggingFaceConfig)
    assert config.vocabulary == 61 and config.config["hidden_size"] == 32
    (folder / "config.json").unlink()  # a worker needs no file
    again = HuggingFaceConfig.model_validate_json(config.model_dump_json())
    network: Any = build_modules(again, CAUSAL)["model"].network
    assert len(network.model.layers) == 1 and network.dtype.is_floating_point
    assert default_objective(again).kind == "causal_lm"
    assert default_objective(asked(head="image_classification")).kind == "classification"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"architecture": "./nowhere"}, "nowhere is no folder with a config.json"),
        ({"config": {"num_hidden_layer": 3}}, "has no num_hidden_layer; did you mean 'num_hidden_layers'"),
        ({"config": {"model_type": "llama"}}, "is of model_type 'qwen2', which can't be changed to 'llama'"),
        ({"head": "image_classification"}, "builds no image_classification of 'qwen2'"),
        ({"config": {"hidden_size": "wide"}}, "builds no causal_lm of 'qwen2'"),
    ],
)
def test_what_transformers_can_t_build_is_a_sentence(folder: Path, fields: dict[str, Any], said: str):
    with pytest.raises(SpecError, match=said):
        build_modules(with_architecture(asked(**fields), str(folder.parent)), CAUSAL)


def test_a_kind_that_transformers_does_not_know_is_a_sentence(folder: Path):
    (folder / "config.json").write_text('{"model_type": "none-such"}')
    with pytest.raises(SpecError, match="knows no model_type 'none-such'"):
        with_architecture(asked(), str(folder.parent))


def test_without_transformers_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(SpecError, match=r"install trainwright\[hf\]"):
        with_architecture(asked(), str(folder.parent))


def test_weights_of_another_architecture_are_refused(folder: Path):
    config = with_architecture(asked(config={"rms_norm_eps": 1e-3}), str(folder.parent))
    with pytest.raises(SpecError, match=r"rms_norm_eps is 1e-06 there and 0\.001 here"):
        load_weights(build_modules(config, CAUSAL), str(folder), config=config)


def test_weights_of_a_run_or_an_export_of_ours_are_compared_and_taken_too(folder: Path, tmp_path: Path):
    config = with_architecture(asked(), str(folder.parent))
    modules = build_modules(config, CAUSAL)
    save_file(
        {name: p.detach() for name, p in modules["model"].named_parameters()}, tmp_path / "a.safetensors"
    )
    section = config.model_dump(mode="json")
    (tmp_path / "config.json").write_text(json.dumps({"model": section}))
    assert load_weights(build_modules(config, CAUSAL), str(tmp_path), config=config).is_complete
    other = with_architecture(asked(config={"rms_norm_eps": 1e-3}), str(folder.parent))
    with pytest.raises(SpecError, match="rms_norm_eps is 1e-06 there"):
        load_weights(build_modules(other, CAUSAL), str(tmp_path), config=other)
    with pytest.raises(SpecError, match="rms_norm_eps is 1e-06 there"):
        refuse_differences(other, section, "checkpoints", strict=True)
