"""GPT and BERT weights under Hugging Face's names, in both directions, by the tables below.

``transformers`` is not needed: a file is safetensors, and ``config.json`` is read and written here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from orchestrator.errors import SpecError
from orchestrator.models.base import Modules
from orchestrator.models.configs import BertConfig, FamilyConfig, GptConfig


@dataclass(frozen=True)
class Rule:
    """One parameter of ours and the tensors of theirs that make it, joined along the first dimension.

    ``{}`` stands for the layer's number.
    """

    ours: str
    theirs: tuple[str, ...]
    transposed: bool = False


def _norm(ours: str, theirs: str, *, bias: bool = True) -> tuple[Rule, ...]:
    kinds = ("weight", "bias") if bias else ("weight",)
    return tuple(Rule(f"{ours}.{kind}", (f"{theirs}.{kind}",)) for kind in kinds)


def _linear(ours: str, *theirs: str, bias: bool = True, transposed: bool = False) -> tuple[Rule, ...]:
    rules = [Rule(f"{ours}.weight", tuple(f"{name}.weight" for name in theirs), transposed)]
    if bias:
        rules.append(Rule(f"{ours}.bias", tuple(f"{name}.bias" for name in theirs)))
    return tuple(rules)


GPT2 = (
    Rule("token_embedding.weight", ("transformer.wte.weight",)),
    Rule("position_embedding.weight", ("transformer.wpe.weight",)),
    *_norm("layers.{}.attention_norm", "transformer.h.{}.ln_1"),
    *_linear("layers.{}.attention.query_key_value", "transformer.h.{}.attn.c_attn", transposed=True),
    *_linear("layers.{}.attention.project", "transformer.h.{}.attn.c_proj", transposed=True),
    *_norm("layers.{}.feedforward_norm", "transformer.h.{}.ln_2"),
    *_linear("layers.{}.feedforward.expand", "transformer.h.{}.mlp.c_fc", transposed=True),
    *_linear("layers.{}.feedforward.project", "transformer.h.{}.mlp.c_proj", transposed=True),
    *_norm("norm", "transformer.ln_f"),
    Rule("head.weight", ("lm_head.weight",)),
)
"""GPT-2: its linear layers are stored transposed."""

_LLAMA_LAYER = "model.layers.{}"
LLAMA = (
    Rule("token_embedding.weight", ("model.embed_tokens.weight",)),
    *_norm("layers.{}.attention_norm", f"{_LLAMA_LAYER}.input_layernorm", bias=False),
    *_linear(
        "layers.{}.attention.query_key_value",
        f"{_LLAMA_LAYER}.self_attn.q_proj",
        f"{_LLAMA_LAYER}.self_attn.k_proj",
        f"{_LLAMA_LAYER}.self_attn.v_proj",
        bias=False,
    ),
    *_linear("layers.{}.attention.project", f"{_LLAMA_LAYER}.self_attn.o_proj", bias=False),
    *_norm("layers.{}.feedforward_norm", f"{_LLAMA_LAYER}.post_attention_layernorm", bias=False),
    *_linear(
        "layers.{}.feedforward.expand",
        f"{_LLAMA_LAYER}.mlp.gate_proj",
        f"{_LLAMA_LAYER}.mlp.up_proj",
        bias=False,
    ),
    *_linear("layers.{}.feedforward.project", f"{_LLAMA_LAYER}.mlp.down_proj", bias=False),
    *_norm("norm", "model.norm", bias=False),
    Rule("head.weight", ("lm_head.weight",)),
)

_BERT_LAYER = "bert.encoder.layer.{}"
BERT = (
    Rule("encoder.token_embedding.weight", ("bert.embeddings.word_embeddings.weight",)),
    Rule("encoder.position_embedding.weight", ("bert.embeddings.position_embeddings.weight",)),
    Rule("encoder.segment_embedding.weight", ("bert.embeddings.token_type_embeddings.weight",)),
    *_norm("encoder.norm", "bert.embeddings.LayerNorm"),
    *_linear(
        "encoder.layers.{}.attention.query_key_value",
        f"{_BERT_LAYER}.attention.self.query",
        f"{_BERT_LAYER}.attention.self.key",
        f"{_BERT_LAYER}.attention.self.value",
    ),
    *_linear("encoder.layers.{}.attention.project", f"{_BERT_LAYER}.attention.output.dense"),
    *_norm("encoder.layers.{}.attention_norm", f"{_BERT_LAYER}.attention.output.LayerNorm"),
    *_linear("encoder.layers.{}.expand", f"{_BERT_LAYER}.intermediate.dense"),
    *_linear("encoder.layers.{}.project", f"{_BERT_LAYER}.output.dense"),
    *_norm("encoder.layers.{}.feedforward_norm", f"{_BERT_LAYER}.output.LayerNorm"),
    *_linear("transform", "cls.predictions.transform.dense"),
    *_norm("norm", "cls.predictions.transform.LayerNorm"),
    Rule("head.bias", ("cls.predictions.bias",)),
    *_linear("pooler", "bert.pooler.dense"),
    *_linear("head", "classifier"),
)
"""BERT with the last part of each objective; a file has one of them."""


_NO_WEIGHTS = (".attn.bias", ".attn.masked_bias", "position_ids", "inv_freq")
"""Ends of the names of masks and tables that files of old hold."""


def table(config: FamilyConfig) -> tuple[Rule, ...]:
    """The rules for an architecture. Raises SpecError where Hugging Face has none like it."""
    if isinstance(config, BertConfig):
        if config.channels is not None:
            raise SpecError("model: a bert over frames of sound has no Hugging Face counterpart")
        return BERT
    if isinstance(config, GptConfig):
        if (config.positions, config.norm, config.bias) == (
            "learned",
            "layer",
            True,
        ) and config.feedforward != "swiglu":
            return GPT2
        if (config.positions, config.norm, config.feedforward, config.bias) == (
            "rotary",
            "rms",
            "swiglu",
            False,
        ):
            return LLAMA
        raise SpecError(
            "model: only GPT-2's options (learned positions, layer norm, gelu, bias) and Llama's (rotary, rms, swiglu,"
            " no bias) have a Hugging Face counterpart"
        )
    raise SpecError(f"model: family {config.family} has no Hugging Face counterpart; gpt and bert have")


def recognizes(config: FamilyConfig, names: Iterable[str]) -> bool:
    """Whether these are Hugging Face's names for this architecture."""
    try:
        rules = table(config)
    except SpecError:
        return False
    named = _plain_names(config, names)
    return all(name in named for rule in rules[:1] for name in rule.theirs)


def refuse_untied(config: FamilyConfig, weights: Mapping[str, Tensor]) -> None:
    """Raises SpecError where a head of its own would be dropped, since the model ties its head to its embedding."""
    if not isinstance(config, GptConfig) or not config.tied_embeddings:
        return
    names = _plain_names(config, weights)
    embedding, head = names[table(config)[0].theirs[0]], names.get("lm_head.weight")
    if head is not None and not torch.equal(weights[head], weights[embedding]):
        raise SpecError(
            f"initialize.weights: {head} is not {embedding}, but the model ties its head to its embedding; set"
            " model.tied_embeddings: false"
        )


def of_layers(names: Iterable[str]) -> list[str]:
    """Those that are of a numbered layer under Hugging Face's names, masks left out."""
    layers = re.compile(r"(^|\.)(h|layers|layer)\.\d+\.")
    return [name for name in names if layers.search(name) and not name.endswith(_NO_WEIGHTS)]


def from_huggingface(config: FamilyConfig, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Their tensors under our names; each is read when it is asked for. What no rule names keeps its name."""
    names = _plain_names(config, weights)
    readers: dict[str, Callable[[], Tensor]] = {}
    used: set[str] = set()
    for ours, theirs, transposed in _expanded(config):
        if all(name in names for name in theirs) and ours not in readers:
            files = [names[name] for name in theirs]
            readers[ours] = lambda files=files, transposed=transposed: _joined(  # type: ignore[misc]
                [weights[name] for name in files], transposed
            )
            used.update(files)
    for name in weights:
        if name not in used and not _is_copy(config, name):
            readers[name] = lambda name=name: weights[name]  # type: ignore[misc]
    return LazyWeights(readers)


def to_huggingface(config: FamilyConfig, modules: Modules) -> dict[str, Tensor]:
    """Our parameters as their tensors, contiguous, on the CPU."""
    ours = dict(modules["model"].named_parameters())
    heights = _heights(config)
    made: dict[str, Tensor] = {}
    for name, theirs, transposed in _expanded(config):
        if name not in ours or any(their in made for their in theirs):
            continue
        if name == "head.bias" and ("head.weight" in ours) != (theirs == ("classifier.bias",)):
            continue
        weight = ours[name].detach().cpu()
        if transposed:
            weight = weight.t()
        parts = weight.split(heights(name, len(theirs), weight.shape[0])) if len(theirs) > 1 else (weight,)
        made.update({their: part.contiguous() for their, part in zip(theirs, parts, strict=True)})
    return made


def save_huggingface(folder: str, config: FamilyConfig, modules: Modules) -> None:
    """Write ``model.safetensors`` and ``config.json`` as ``transformers`` reads them."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    save_file(to_huggingface(config, modules), place / "model.safetensors", metadata={"format": "pt"})
    written = {**config_to_huggingface(config), "architectures": [_architecture(config, modules["model"])]}
    (place / "config.json").write_text(json.dumps(written, indent=2))


def config_to_huggingface(config: FamilyConfig) -> dict[str, Any]:
    """``config.json`` for our config."""
    if isinstance(config, BertConfig):
        return {
            "model_type": "bert",
            "vocab_size": config.vocabulary,
            "hidden_size": config.width,
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "intermediate_size": round(config.width * config.feedforward_ratio),
            "hidden_act": "gelu",
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": config.dropout,
            "max_position_embeddings": config.context,
            "type_vocab_size": config.segments,
            "layer_norm_eps": config.norm_epsilon,
            "initializer_range": config.initial_deviation,
            "num_labels": config.outputs or 2,
        }
    rules = table(config)
    assert isinstance(config, GptConfig)
    hidden = round(config.width * config.feedforward_ratio)
    if rules is GPT2:
        return {
            "model_type": "gpt2",
            "vocab_size": config.vocabulary,
            "n_positions": config.context,
            "n_embd": config.width,
            "n_layer": config.layers,
            "n_head": config.heads,
            "n_inner": hidden,
            "activation_function": "gelu_new" if config.feedforward == "gelu_tanh" else "gelu",
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
            "layer_norm_epsilon": config.norm_epsilon,
            "initializer_range": config.initial_deviation,
            "tie_word_embeddings": config.tied_embeddings,
        }
    return {
        "model_type": "llama",
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.context,
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads // config.heads_per_key_value,
        "intermediate_size": hidden,
        "hidden_act": "silu",
        "attention_dropout": config.dropout,
        "rms_norm_eps": config.norm_epsilon,
        "initializer_range": config.initial_deviation,
        "rope_theta": config.rotary_base,
        "tie_word_embeddings": config.tied_embeddings,
    }


def _architecture(config: FamilyConfig, model: nn.Module) -> str:
    if isinstance(config, BertConfig):
        return {
            "MaskedLanguageModel": "BertForMaskedLM",
            "SequenceClassifier": "BertForSequenceClassification",
            "TokenClassifier": "BertForTokenClassification",
        }[type(model).__name__]
    return "GPT2LMHeadModel" if table(config) is GPT2 else "LlamaForCausalLM"


def _heights(config: FamilyConfig) -> Callable[[str, int, int], list[int]]:
    """Rows of each part of a parameter that is several of theirs."""

    def heights(name: str, parts: int, rows: int) -> list[int]:
        if "query_key_value" in name and isinstance(config, GptConfig):
            key_value = config.width // config.heads_per_key_value
            return [config.width, key_value, key_value]
        return [rows // parts] * parts

    return heights


def _expanded(config: FamilyConfig) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """The rules with each layer's number written out."""
    assert isinstance(config, GptConfig | BertConfig)
    tied = isinstance(config, GptConfig) and config.tied_embeddings
    for rule in table(config):
        if tied and rule.ours == "head.weight":
            continue
        for layer in range(config.layers) if "{}" in rule.ours else (0,):
            yield rule.ours.format(layer), tuple(name.format(layer) for name in rule.theirs), rule.transposed


def _plain_names(config: FamilyConfig, names: Iterable[str]) -> dict[str, str]:
    """Names as the tables write them -> names in the file.

    Files of a bare model lack the first word; old ones call a norm's weight gamma and its bias beta.
    """
    first = table(config)[0].theirs[0].partition(".")[0] + "."
    heads = ("lm_head.", "cls.", "classifier.")
    plain = {}
    for name in names:
        known = name if name.startswith((first, *heads)) else first + name
        known = known.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
            "LayerNorm.beta", "LayerNorm.bias"
        )
        plain[known] = name
    return plain


def _is_copy(config: FamilyConfig, name: str) -> bool:
    """Whether one of their tensors only repeats another one, holds a mask, or belongs to a task we don't have."""
    if isinstance(config, GptConfig) and config.tied_embeddings and name == "lm_head.weight":
        return True
    return name.endswith(_NO_WEIGHTS) or name.startswith(
        ("cls.predictions.decoder.", "cls.seq_relationship.")
    )


def _joined(parts: list[Tensor], transposed: bool) -> Tensor:
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    return whole.t() if transposed else whole


class LazyWeights(Mapping[str, Tensor]):
    """Tensors that are made when they are asked for."""

    def __init__(self, readers: dict[str, Callable[[], Tensor]]) -> None:
        self._readers = readers

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)
