"""transformers is the oracle: with the same weights, the same logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.errors import SpecError
from orchestrator.models import build_modules, huggingface
from orchestrator.models.configs import (
    BertConfig,
    CausalLmConfig,
    ClassificationConfig,
    GptConfig,
    MaskedLmConfig,
    MlpConfig,
    TokenClassificationConfig,
)
from orchestrator.models.initialize import load_weights

transformers = pytest.importorskip("transformers")

VOCABULARY, TOLERANCE = 61, 1e-5
GPT2 = GptConfig(vocabulary=VOCABULARY, context=24, layers=2, heads=4, width=32, feedforward="gelu_tanh")
LLAMA = GptConfig(
    vocabulary=VOCABULARY, context=24, layers=2, heads=4, heads_per_key_value=2, width=32, positions="rotary",
    norm="rms", feedforward="swiglu", feedforward_ratio=2.5, bias=False, tied_embeddings=False,
)  # fmt: skip
BERT = BertConfig(vocabulary=VOCABULARY, context=24, layers=2, heads=4, width=32, outputs=3, dropout=0.0)

CASES = {
    "gpt2": (GPT2, CausalLmConfig(), "AutoModelForCausalLM"),
    "gpt2-untied": (GPT2.model_copy(update={"tied_embeddings": False, "feedforward": "gelu"}), CausalLmConfig(), "AutoModelForCausalLM"),
    "llama": (LLAMA, CausalLmConfig(), "AutoModelForCausalLM"),
    "bert-mlm": (BERT, MaskedLmConfig(mask_token=1), "AutoModelForMaskedLM"),
    "bert-sequence": (BERT, ClassificationConfig(), "AutoModelForSequenceClassification"),
    "bert-token": (BERT, TokenClassificationConfig(), "AutoModelForTokenClassification"),
}  # fmt: skip
every_case = pytest.mark.parametrize("name", CASES)


def _randomized(module: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough that a wrong one shows, norms and biases too."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return module.eval()


def _largest_difference(ours: torch.nn.Module, theirs: torch.nn.Module) -> float:
    tokens = torch.randint(0, VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return (ours(tokens) - theirs(tokens).logits).abs().max().item()


@every_case
def test_their_file_gives_their_logits(name: str, tmp_path: Path):
    config, objective, their_class = CASES[name]
    written = huggingface.config_to_huggingface(config)
    their_config = transformers.AutoConfig.for_model(written.pop("model_type"), **written)
    theirs = _randomized(
        getattr(transformers, their_class).from_config(their_config, attn_implementation="eager")
    )
    theirs.save_pretrained(tmp_path)

    modules = build_modules(config, objective)
    modules["model"].eval()
    report = load_weights(modules, str(tmp_path), config=config)
    assert report.is_complete
    assert not report.unused
    assert _largest_difference(modules["model"], theirs) <= TOLERANCE


@every_case
def test_our_file_gives_our_logits(name: str, tmp_path: Path):
    config, objective, their_class = CASES[name]
    modules = build_modules(config, objective)
    ours = _randomized(modules["model"])
    huggingface.save_huggingface(str(tmp_path), config, modules)
    theirs, info = getattr(transformers, their_class).from_pretrained(
        tmp_path, output_loading_info=True, attn_implementation="eager"
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert _largest_difference(ours, theirs.eval()) <= TOLERANCE


def test_lengths_are_their_attention_mask():
    config, objective, _ = CASES["bert-sequence"]
    modules = build_modules(config, objective)
    ours = _randomized(modules["model"])
    tokens, length = torch.randint(0, VOCABULARY, (3, 24)), torch.tensor([24, 5, 11])
    with torch.no_grad():
        one = ours(tokens, length)
        tokens[torch.arange(24) >= length[:, None]] = 0
        other = ours(tokens, length)
    torch.testing.assert_close(one, other)


def test_a_bare_models_file_with_old_names_is_understood(tmp_path: Path):
    config, objective, _ = CASES["bert-mlm"]
    modules = build_modules(config, objective)
    _randomized(modules["model"])
    weights = {
        name.removeprefix("bert.").replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in huggingface.to_huggingface(config, modules).items()
    }  # fmt: skip
    assert "embeddings.LayerNorm.gamma" in weights
    back = huggingface.from_huggingface(config, weights)
    for name, parameter in modules["model"].named_parameters():
        torch.testing.assert_close(back[name], parameter.detach(), rtol=0, atol=0)


def test_an_architecture_that_they_lack_is_refused():
    with pytest.raises(SpecError, match="only GPT-2's options"):
        huggingface.table(GptConfig(vocabulary=5, positions="rotary"))
    with pytest.raises(SpecError, match="family mlp has no Hugging Face counterpart"):
        huggingface.table(MlpConfig())
