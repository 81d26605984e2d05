"""What the ``config.json`` beside weights says of the function they are of, in the fields of our families.

Weights of one shape may be of many functions: other heads, another epsilon, scaled positions. So whatever changes the
function is either put into a field of ours or refused by name. Names and defaults are those of ``transformers``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import SpecError
from orchestrator.models.configs.base import FamilyConfig, WeightsConfig
from orchestrator.models.configs.custom import HuggingFaceConfig
from orchestrator.registry import suggest

Fields = dict[str, Any]

_GELU = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}
_OTHER_THAN_LLAMA = {
    "qwen2": "biases of queries, keys and values",
    "qwen3": "norms of queries and keys",
    "gemma": "scaled embeddings and norms that add one to their weights",
    "gemma2": "norms around each branch and capped logits",
    "gemma3_text": "norms around each branch and two kinds of positions",
    "phi3": "fused projections and scaled positions",
    "mixtral": "experts",
    "gpt_neox": "attention and feed-forward side by side",
}
_OF_TRAINING = ("family", "size", "dropout", "initial_deviation")
"""Fields that don't change what a trained model computes."""
_SEEN_IN_SHAPES = ("vocabulary", "context", "layers", "width", "feedforward_ratio", "segments")
"""Fields that decide shapes or which parameters there are: without ``strict`` they may differ."""

_NOT_THE_ARCHITECTURE = {
    "architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "id2label", "label2id",
    "num_labels", "use_cache", "initializer_range",
}  # fmt: skip
"""Of a ``config.json``: what says nothing of the function."""
_SEEN_IN_SHAPES_THERE = {
    "vocab_size",
    "num_hidden_layers",
    "n_layer",
    "max_position_embeddings",
    "n_positions",
}


def read_config(path: str) -> dict[str, Any] | None:
    """The ``config.json`` of a folder of weights, or beside a file of them; None where there is none.

    Raises:
        SpecError: it is no JSON object.
    """
    place = Path(path)
    if not place.exists():
        return None
    file = (place if place.is_dir() else place.parent) / "config.json"
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(f"initialize.weights: {file} can't be read: {error}") from None
    if not isinstance(content, dict):
        raise SpecError(f"initialize.weights: {file} is no JSON object")
    return content


def fields_of(theirs: Mapping[str, Any], path: str) -> Fields:
    """Family and fields of ours that compute what weights with this config compute.

    Raises:
        SpecError: no family of ours does; it names what it has that ours have not.
    """
    if isinstance(ours := theirs.get("model"), dict):  # an export of ours
        return {name: value for name, value in ours.items() if value is not None}
    kind = theirs.get("model_type")
    if kind not in _READERS:
        why = f", which has {_OTHER_THAN_LLAMA[kind]}" if kind in _OTHER_THAN_LLAMA else ""
        raise SpecError(
            f"initialize.weights: {path}/config.json is of model_type {kind!r}{why}; family gpt computes what"
            " gpt2, llama and mistral compute, and family bert what bert does"
        )
    refused = [*_refused(theirs, {"quantization_config": None}), *_refused(theirs, _MUST_BE[kind])]
    fields = _READERS[kind](theirs, refused)
    if refused:
        raise SpecError(
            f"initialize.weights: {path}/config.json has {', '.join(refused)}, which family {fields['family']} can't"
            " compute"
        )
    return fields


def filled_in(config: FamilyConfig, path: str | None) -> FamilyConfig:
    """The config with what its weights say where it is ``from: weights``, but for the fields that are written beside it.

    Args:
        config: a model's section.
        path: of the weights to start from; None where there are none.

    Raises:
        SpecError: there are no weights or none with a ``config.json``, or this family does not compute what they do.
    """
    if not isinstance(config, WeightsConfig) or config.from_ is None:
        return config
    if config.size is not None:
        raise SpecError("model: size and from are both given; write one of them")
    theirs = read_config(path) if path is not None else None
    if path is None or theirs is None:
        where = "initialize.weights is not given" if path is None else f"{path} has no config.json"
        raise SpecError(f"model.from: {where}; write the model's fields, or start from a folder that has one")
    said = fields_of(theirs, path)
    if said.get("family") != config.family:
        raise SpecError(f"model.family: {path} holds weights of {said.get('family')}, not of {config.family}")
    written = {name: getattr(config, name) for name in config.model_fields_set}
    try:
        filled: FamilyConfig = type(config).model_validate({**said, **written, "from_": None})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise SpecError(f"model: with what {path}/config.json says, {problem}") from None
    return filled


def with_architecture(config: FamilyConfig, base_dir: str) -> FamilyConfig:
    """A Hugging Face config with all fields of its architecture, so that a worker needs no file; others as they are.

    Raises:
        SpecError: there is no ``config.json``, or ``transformers`` is needed to look it up and missing.
    """
    if not isinstance(config, HuggingFaceConfig):
        return config
    from orchestrator.models import transformers_models

    folder = Path(base_dir, config.architecture)
    found = read_config(str(folder)) if folder.exists() else None
    if found is None and (folder.exists() or config.architecture[:1] in "./"):
        raise SpecError(f"model.architecture: {folder} is no folder with a config.json")
    if found is None:
        found = transformers_models.described(config.architecture)
    if (kind := config.config.get("model_type", found.get("model_type"))) != found.get("model_type"):
        raise SpecError(
            f"model.config: {config.architecture} is of model_type {found.get('model_type')!r}, which can't be changed to"
            f" {kind!r}; name another architecture"
        )
    fields = {name: value for name, value in found.items() if name not in _NOT_THE_ARCHITECTURE}
    known = {*fields, *transformers_models.known_fields(found.get("model_type"))}
    if unknown := sorted(set(config.config) - known):
        raise SpecError(
            f"model.config: {config.architecture} has no {unknown[0]}{suggest(unknown[0], sorted(known))}"
        )
    if "num_hidden_layers" in config.config:
        fields.pop("layer_types", None)  # one for each layer; theirs follow from the number
    fields |= config.config
    return config.model_copy(
        update={"config": fields, "vocabulary": config.vocabulary or fields.get("vocab_size")}
    )


def check_same_function(config: FamilyConfig, path: str, *, strict: bool, grows: bool = False) -> None:
    """Refuse weights that are of another function than the model that is to take them.

    Args:
        config: the model's, with all its fields known.
        path: a folder of weights, or a file; without a ``config.json`` there is nothing to compare.
        strict: whether also what shapes tell must be equal.
        grows: whether the model may have more tokens.

    Raises:
        SpecError: a field of the model differs from what ``config.json`` says, or no family computes that; by name.
    """
    theirs = read_config(path)
    if isinstance(config, HuggingFaceConfig) and theirs is not None and "model" not in theirs:
        _refuse_other_architecture(config, theirs, path, strict)
        _refuse_other_vocabulary(theirs.get("vocab_size"), config.vocabulary, path, grows)
    elif theirs is not None:
        refuse_differences(config, fields_of(theirs, path), path, strict=strict, grows=grows)


def refuse_differences(
    config: FamilyConfig, said: Fields, path: str, *, strict: bool, grows: bool = False
) -> None:
    """The same for weights whose fields are known.

    Raises:
        SpecError: a field of the model differs; by name.
    """
    if said.get("family") != config.family:
        raise SpecError(
            f"initialize.weights: {path} holds weights of family {said.get('family')}, but the model is {config.family}"
        )
    if isinstance(config, HuggingFaceConfig):
        _refuse_other_architecture(config, said["config"], path, strict)
        return
    other = list(_differences(config, said, strict, grows))
    _refuse_other_vocabulary(said.get("vocabulary"), getattr(config, "vocabulary", None), path, grows)
    if other:
        raise SpecError(
            f"initialize.weights: {path} is of another function than the model: {', '.join(other)}; set these fields"
            " of model as the weights have them, or write model: {family: "
            f"{config.family}, from: weights}} to take all that its config.json says"
        )


def _refuse_other_architecture(
    config: HuggingFaceConfig, theirs: dict[str, Any], path: str, strict: bool
) -> None:
    left_out = {*_NOT_THE_ARCHITECTURE, *(() if strict else _SEEN_IN_SHAPES_THERE)}
    other = [
        f"{name} is {theirs[name]!r} there and {config.config[name]!r} here"
        for name in sorted(set(theirs) & set(config.config) - left_out)
        if theirs[name] != config.config[name] and "dropout" not in name and "pdrop" not in name
    ]
    if other:
        raise SpecError(
            f"initialize.weights: {path} is of another function than the model: {', '.join(other)}"
        )


def _refuse_other_vocabulary(theirs: Any, ours: int | None, path: str, grows: bool) -> None:
    """Where a vocabulary is to grow: raises SpecError for one that would shrink."""
    if grows and isinstance(theirs, int) and ours is not None and ours < theirs:
        raise SpecError(
            f"initialize.grow_vocabulary: {path} has {theirs} tokens and the model {ours}; set model.vocabulary to {theirs} or more"
        )


def _differences(config: FamilyConfig, said: Fields, strict: bool, grows: bool) -> Iterator[str]:
    of_the_data = set(config.FROM_DATA) - {"vocabulary"}  # what of it changes the function, shapes tell
    left_out = {
        *_OF_TRAINING,
        *of_the_data,
        *(() if strict else _SEEN_IN_SHAPES),
        *(("vocabulary",) if grows else ()),
    }
    for name, theirs in said.items():
        ours = getattr(config, name, theirs)
        if name in left_out or ours is None or theirs is None or isinstance(theirs, dict):
            continue
        if name == "context" and said.get("positions") == "rotary":
            continue  # no parameter and no angle depends on it
        if name == "feedforward_ratio" and isinstance(width := said.get("width"), int):
            ours, theirs = round(ours * width), round(theirs * width)
        if ours != (tuple(theirs) if isinstance(theirs, list) else theirs):
            yield f"{name} is {theirs!r} there and {ours!r} here"


def _refused(theirs: Mapping[str, Any], must_be: Mapping[str, Any]) -> Iterator[str]:
    """Keys with another value than the only one that we compute; a key that is not there has that value."""
    for key, value in must_be.items():
        given = theirs.get(key, value)
        if given != value and not (given is None and not value):
            yield f"{key} {given!r}" if not isinstance(given, dict) else key


def _gpt2(theirs: Mapping[str, Any], refused: list[str]) -> Fields:
    width = theirs.get("n_embd", 768)
    activation = theirs.get("activation_function", "gelu_new")
    if activation not in _GELU:
        refused.append(f"activation_function {activation!r}")
    return {
        "family": "gpt",
        "vocabulary": theirs.get("vocab_size", 50257),
        "context": theirs.get("n_positions", 1024),
        "layers": theirs.get("n_layer", 12),
        "heads": theirs.get("n_head", 12),
        "heads_per_key_value": 1,
        "width": width,
        "positions": "learned",
        "norm": "layer",
        "norm_epsilon": theirs.get("layer_norm_epsilon", 1e-5),
        "feedforward": _GELU.get(activation),
        "feedforward_ratio": (theirs.get("n_inner") or 4 * width) / width,
        "bias": True,
        "tied_embeddings": theirs.get("tie_word_embeddings", True),
        "dropout": theirs.get("resid_pdrop", 0.1),
    }


def _llama(theirs: Mapping[str, Any], refused: list[str]) -> Fields:
    width, heads = theirs.get("hidden_size", 4096), theirs.get("num_attention_heads", 32)
    groups = theirs.get("num_key_value_heads") or (8 if theirs["model_type"] == "mistral" else heads)
    positions = {"rope_theta": theirs.get("rope_theta", 10000.0)}
    for key in ("rope_scaling", "rope_parameters"):
        positions.update(theirs.get(key) or {})
    kind = positions.get("rope_type", positions.get("type", "default"))
    context = theirs.get("max_position_embeddings", 131072 if theirs["model_type"] == "mistral" else 2048)
    if kind != "default":
        refused.append(f"scaled rotary positions ({kind})")
    if positions.get("partial_rotary_factor", theirs.get("partial_rotary_factor", 1.0)) != 1.0:
        refused.append("partial_rotary_factor")
    if theirs.get("hidden_act", "silu") not in ("silu", "swish"):
        refused.append(f"hidden_act {theirs['hidden_act']!r}")
    if (theirs.get("head_dim") or width // heads) * heads != width:
        refused.append(f"head_dim {theirs['head_dim']}")
    window = theirs.get("sliding_window", 4096 if theirs["model_type"] == "mistral" else None)
    if window is not None and window < context:
        refused.append(f"sliding_window {window}")
    return {
        "family": "gpt",
        "vocabulary": theirs.get("vocab_size", 32000),
        "context": context,
        "layers": theirs.get("num_hidden_layers", 32),
        "heads": heads,
        "heads_per_key_value": heads // groups,
        "width": width,
        "positions": "rotary",
        "rotary_base": float(positions["rope_theta"]),
        "norm": "rms",
        "norm_epsilon": theirs.get("rms_norm_eps", 1e-6),
        "feedforward": "swiglu",
        "feedforward_ratio": theirs.get("intermediate_size", 11008) / width,
        "bias": False,
        "tied_embeddings": theirs.get("tie_word_embeddings", False),
        "dropout": theirs.get("attention_dropout", 0.0),
    }


def _bert(theirs: Mapping[str, Any], refused: list[str]) -> Fields:
    width = theirs.get("hidden_size", 768)
    return {
        "family": "bert",
        "vocabulary": theirs.get("vocab_size", 30522),
        "context": theirs.get("max_position_embeddings", 512),
        "layers": theirs.get("num_hidden_layers", 12),
        "heads": theirs.get("num_attention_heads", 12),
        "width": width,
        "feedforward_ratio": theirs.get("intermediate_size", 3072) / width,
        "segments": theirs.get("type_vocab_size", 2),
        "norm_epsilon": theirs.get("layer_norm_eps", 1e-12),
        "dropout": theirs.get("hidden_dropout_prob", 0.1),
    }


_MUST_BE: dict[str, dict[str, Any]] = {
    "gpt2": {
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    "llama": {"attention_bias": False, "mlp_bias": False},
    "mistral": {"attention_bias": False, "mlp_bias": False},
    "bert": {
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    },
}
"""model_type -> what our family computes; every other value is another function."""

_READERS: dict[str, Callable[[Mapping[str, Any], list[str]], Fields]] = {
    "gpt2": _gpt2,
    "llama": _llama,
    "mistral": _llama,
    "bert": _bert,
}
