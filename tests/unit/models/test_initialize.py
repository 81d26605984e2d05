from __future__ import annotations

from pathlib import Path

import pytest
import torch
from family_cases import CASES, IDS, Case
from safetensors.torch import save_file

from orchestrator.errors import NotFoundError, SpecError
from orchestrator.models import build_modules
from orchestrator.models.configs import AdversarialConfig, ClassificationConfig, GanConfig, MlpConfig
from orchestrator.models.initialize import freeze, load_weights, place_weights, restore

MLP = MlpConfig(size="debug", in_features=4, outputs=3)


def _mlp(config: MlpConfig = MLP):
    return build_modules(config, ClassificationConfig())


def _weights(modules) -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(parameter) for name, parameter in modules["model"].named_parameters()}


def test_a_whole_file_is_put_in_place(tmp_path: Path):
    modules = _mlp()
    weights = _weights(modules)
    save_file(weights, tmp_path / "all.safetensors")
    report = load_weights(modules, str(tmp_path / "all.safetensors"))
    assert report.is_complete
    assert str(report) == "6 parameters took a weight"
    for name, parameter in modules["model"].named_parameters():
        assert torch.equal(parameter, weights[name])


def test_names_with_the_modules_name_in_front_fit_too():
    modules = _mlp()
    weights = {f"model/{name}": tensor for name, tensor in _weights(modules).items()}
    assert place_weights(modules, weights).is_complete


def test_a_part_is_taken_by_prefix_and_reported():
    modules = _mlp()
    before = {name: parameter.detach().clone() for name, parameter in modules["model"].named_parameters()}
    weights = {
        "backbone.0.linear.weight": torch.ones(32, 4),
        "backbone.7.linear.bias": torch.ones(2),
        "other": torch.ones(1),
    }
    report = place_weights(modules, weights, prefix="backbone.", into="layers.", strict=False)
    assert report.matched == ("layers.0.linear.weight",)
    assert report.unused == ("backbone.7.linear.bias",)
    assert "5 found none: layers.0.linear.bias, layers.1.linear.weight" in str(report)
    for name, parameter in modules["model"].named_parameters():
        expected = torch.ones(32, 4) if name == "layers.0.linear.weight" else before[name]
        assert torch.equal(parameter, expected)


def test_another_shape_is_refused_or_reported():
    modules = _mlp()
    weights = {**_weights(modules), "head.weight": torch.zeros(9, 32)}
    with pytest.raises(
        SpecError, match=r"1 have another shape: head.weight \(9x32 -> 3x32\); set initialize.strict: false"
    ):
        place_weights(modules, weights)
    assert place_weights(modules, weights, strict=False).mismatched == ("head.weight (9x32 -> 3x32)",)


def test_nothing_that_fits_is_refused_even_when_not_strict():
    with pytest.raises(SpecError, match=r"no weight fits .*the file has names like x, the model like layers"):
        place_weights(_mlp(), {"x": torch.zeros(1)}, strict=False)


def test_a_file_that_is_missing_or_no_safetensors_is_named(tmp_path: Path):
    with pytest.raises(NotFoundError, match="there is no"):
        load_weights(_mlp(), str(tmp_path / "absent.safetensors"))
    with pytest.raises(NotFoundError, match=r"holds no \.safetensors file"):
        load_weights(_mlp(), str(tmp_path))
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(SpecError, match=r"bad\.safetensors is not a safetensors file"):
        load_weights(_mlp(), str(tmp_path / "bad.safetensors"))


def test_frozen_parameters_are_those_that_match():
    modules = _mlp()
    names = freeze(modules, ("layers.0.*", "*.bias"))
    assert names == ["layers.0.linear.weight", "layers.0.linear.bias", "layers.1.linear.bias", "head.bias"]
    frozen = [name for name, parameter in modules["model"].named_parameters() if not parameter.requires_grad]
    assert frozen == names


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(
        SpecError, match=r"no parameter matches 'encoder\.\*'; names are like layers\.0\.linear\.weight"
    ):
        freeze(_mlp(), ("head.*", "encoder.*"))


def test_an_average_follows_what_its_source_loaded():
    modules = build_modules(
        GanConfig(size="debug", layers="mlp", channels=1, image_size=8), AdversarialConfig()
    )
    weights = {
        f"{name}/{path}": torch.randn_like(parameter)
        for name in ("generator", "discriminator")
        for path, parameter in modules[name].named_parameters()
    }
    assert place_weights(modules, weights).is_complete
    for path, parameter in modules["generator_ema"].named_parameters():
        assert torch.equal(parameter, weights[f"generator/{path}"])


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_what_a_family_holds_is_restored_whole(case: Case):
    source, target = (build_modules(case.config, case.objective) for _ in range(2))
    held = {
        f"{name}/{path}": tensor.detach().clone()
        for name, module in source.items()
        for path, tensor in (*module.named_parameters(), *module.named_buffers())
        if path in module.state_dict()
    }
    restore(target, held)
    for name, module in source.items():
        for one, other in zip(module.state_dict().values(), target[name].state_dict().values(), strict=True):
            assert torch.equal(one, other)


def test_another_models_weights_are_not_restored():
    modules = _mlp()
    held = {f"model/{name}": parameter.detach() for name, parameter in modules["model"].named_parameters()}
    with pytest.raises(SpecError, match=r"model/head\.bias is only in one of the two"):
        restore(modules, {name: tensor for name, tensor in held.items() if name != "model/head.bias"})
    with pytest.raises(SpecError, match=r"model/head\.bias is 4, not 3"):
        restore(modules, {**held, "model/head.bias": torch.zeros(4)})
