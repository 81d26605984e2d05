"""Weights of one shape can be of many functions; transformers says which, and is the oracle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from orchestrator.errors import SpecError
from orchestrator.models import build_modules
from orchestrator.models.configs import BertConfig, CausalLmConfig, GptConfig, MaskedLmConfig, filled_in
from orchestrator.models.initialize import load_weights

transformers = pytest.importorskip("transformers")

LLAMA = {
    "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 80, "max_position_embeddings": 24, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
}  # fmt: skip
GPT2 = {"vocab_size": 61, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4}
BERT = {
    "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "max_position_embeddings": 24,
}  # fmt: skip
FROM_GPT = GptConfig.model_validate({"from": "weights"})
FROM_BERT = BertConfig.model_validate({"from": "weights"})
CAUSAL, MASKED = CausalLmConfig(), MaskedLmConfig(mask_token=1)


def saved(
    folder: Path, kind: str, fields: dict[str, object], head: str = "AutoModelForCausalLM"
) -> torch.nn.Module:
    """A random model of theirs, written as people hand it on."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **fields)
    module = getattr(transformers, head).from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    module.save_pretrained(folder)
    return module


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("llama", {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0}}),
        ("llama", {**LLAMA, "tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
        ("mistral", {**LLAMA, "sliding_window": None}),
        ("gpt2", {**GPT2, "layer_norm_epsilon": 1e-3, "n_inner": 96}),
        ("gpt2", {**GPT2, "tie_word_embeddings": False, "activation_function": "gelu"}),
        ("bert", {**BERT, "layer_norm_eps": 1e-3}),
    ],
)
def test_a_model_from_weights_computes_what_theirs_does(kind: str, fields: dict[str, object], tmp_path: Path):
    is_bert = kind == "bert"
    theirs = saved(tmp_path, kind, fields, "AutoModelForMaskedLM" if is_bert else "AutoModelForCausalLM")
    config = filled_in(FROM_BERT if is_bert else FROM_GPT, str(tmp_path))
    modules = build_modules(config, MASKED if is_bert else CAUSAL)
    load_weights(modules, str(tmp_path), config=config)
    tokens = torch.randint(0, 61, (3, 24))
    with torch.no_grad():
        difference = modules["model"].eval()(tokens) - theirs(tokens).logits
    assert difference.abs().max() <= 1e-4


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("llama", {**LLAMA, "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}, "scaled rotary positions"),
        ("llama", {**LLAMA, "attention_bias": True}, "attention_bias True"),
        ("llama", {**LLAMA, "mlp_bias": True}, "mlp_bias True"),
        ("llama", {**LLAMA, "head_dim": 16}, "head_dim 16"),
        ("llama", {**LLAMA, "hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("mistral", {**LLAMA, "sliding_window": 8}, "sliding_window 8"),
        ("qwen2", LLAMA, "biases of queries, keys and values"),
        ("qwen3", {**LLAMA, "head_dim": 8}, "norms of queries and keys"),
        ("gemma", {**LLAMA, "head_dim": 8}, "norms that add one"),
        ("gpt2", {**GPT2, "activation_function": "relu"}, "activation_function 'relu'"),
        ("gpt2", {**GPT2, "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
    ],
)  # fmt: skip
def test_what_no_family_computes_is_refused_by_name(
    kind: str, fields: dict[str, object], said: str, tmp_path: Path
):
    transformers.AutoConfig.for_model(kind, **fields).save_pretrained(tmp_path)
    with pytest.raises(SpecError, match=said):
        filled_in(FROM_GPT, str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        ("llama", {"heads": 8, "heads_per_key_value": 4}, "heads is 4 there and 8 here, heads_per_key_value is 2 there and 4"),
        ("llama", {"norm_epsilon": 1e-5}, "norm_epsilon is 1e-06 there and 1e-05 here"),
        ("llama", {"layers": 1}, "layers is 2 there and 1 here"),
        ("llama", {"rotary_base": 5e5}, "rotary_base is 10000.0 there and 500000.0 here"),
        ("llama", {"tied_embeddings": True}, "tied_embeddings is False there and True here"),
        ("gpt2", {"feedforward": "gelu"}, "feedforward is 'gelu_tanh' there and 'gelu' here"),
        ("gpt2", {"tied_embeddings": False}, "tied_embeddings is True there and False here"),
    ],
)  # fmt: skip
def test_a_model_of_another_function_is_refused_by_its_field(
    kind: str, changed: dict[str, object], said: str, tmp_path: Path
):
    saved(tmp_path, kind, LLAMA if kind == "llama" else GPT2)
    config = filled_in(FROM_GPT, str(tmp_path)).model_copy(update=changed)
    with pytest.raises(SpecError, match=said):
        load_weights(build_modules(config, CAUSAL), str(tmp_path), config=config)


def test_without_strict_only_what_shapes_tell_may_differ(tmp_path: Path):
    saved(tmp_path, "llama", LLAMA)
    config = filled_in(FROM_GPT, str(tmp_path))
    shorter = config.model_copy(update={"layers": 1})
    assert load_weights(build_modules(shorter, CAUSAL), str(tmp_path), config=shorter, strict=False).matched
    fewer = config.model_copy(update={"heads": 2, "heads_per_key_value": 1})
    with pytest.raises(SpecError, match="heads is 4 there and 2 here"):
        load_weights(build_modules(fewer, CAUSAL), str(tmp_path), config=fewer, strict=False)


def test_a_file_alone_is_refused_by_the_names_that_it_has(tmp_path: Path):
    saved(tmp_path, "llama", LLAMA)
    config = filled_in(FROM_GPT, str(tmp_path))
    (tmp_path / "config.json").unlink()
    shorter, tied = (
        config.model_copy(update=changed) for changed in ({"layers": 1}, {"tied_embeddings": True})
    )
    with pytest.raises(SpecError, match=r"layers that the model lacks: model\.layers\.1"):
        load_weights(build_modules(shorter, CAUSAL), str(tmp_path), config=shorter)
    with pytest.raises(SpecError, match=r"set model\.tied_embeddings: false"):
        load_weights(build_modules(tied, CAUSAL), str(tmp_path), config=tied)


def test_fields_written_beside_from_win_and_what_is_missing_is_said(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "model_type": "llama"}))
    asked = GptConfig.model_validate({"from": "weights", "dropout": 0.3, "context": 16})
    filled = filled_in(asked, str(tmp_path))
    assert isinstance(filled, GptConfig)
    assert (filled.dropout, filled.context, filled.heads_per_key_value, filled.from_) == (0.3, 16, 2, None)
    assert GptConfig.model_validate_json(filled.model_dump_json()) == filled
    for config, path, said in (
        (FROM_GPT, None, "initialize.weights is not given"),
        (FROM_GPT, str(tmp_path / "none"), "has no config.json"),
        (FROM_BERT, str(tmp_path), "holds weights of gpt, not of bert"),
        (GptConfig.model_validate({"from": "weights", "heads": 5}), str(tmp_path), "heads 5 does not divide width 32"),
        (GptConfig.model_validate({"from": "weights", "size": "nano"}), str(tmp_path), "write one of them"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=said):
            filled_in(config, path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(SpecError, match="is no JSON object"):
        filled_in(FROM_GPT, str(tmp_path))
