"""Architectures of ``transformers`` (extra ``hf``) as models of ours: their modules, our loop.

A model's parameters are named as theirs with ``network.`` in front.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._guards import active_fake_mode

from orchestrator.errors import CheckpointError, SpecError
from orchestrator.models.base import Modules
from orchestrator.models.configs import SequenceToSequenceConfig
from orchestrator.models.custom import with_blocks
from orchestrator.models.huggingface import LazyWeights

if TYPE_CHECKING:
    from orchestrator.models.configs import HuggingFaceConfig, ObjectiveConfig

_CLASSES = {
    "causal_lm": "AutoModelForCausalLM",
    "masked_lm": "AutoModelForMaskedLM",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "image_classification": "AutoModelForImageClassification",
}
"""Head -> their class that builds any architecture with it."""


class _Wrapped(nn.Module):
    """One of their modules."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._takes = set(inspect.signature(network.forward).parameters)

    def _logits(self, **given: Tensor | None) -> Tensor:
        named = {name: value for name, value in given.items() if value is not None and name in self._takes}
        logits: Tensor = self.network(**named).logits
        return logits


class CausalLanguageModel(_Wrapped):
    """Tokens (B, T) -> logits (B, T, V). What comes after a token does not change its logits, so no mask is needed."""

    def forward(self, tokens: Tensor) -> Tensor:
        """See the class."""
        return self._logits(input_ids=tokens)


class TextModel(_Wrapped):
    """Tokens (B, T), how many are real (B,), segments (B, T) -> logits of each sample or token."""

    def forward(self, tokens: Tensor, length: Tensor | None = None, segment: Tensor | None = None) -> Tensor:
        """See the class."""
        return self._logits(input_ids=tokens, attention_mask=_mask(tokens, length), token_type_ids=segment)


class MaskedLanguageModel(TextModel):
    """The same; with places (B, K) the logits (B, K, V) of these alone."""

    def forward(
        self,
        tokens: Tensor,
        length: Tensor | None = None,
        segment: Tensor | None = None,
        place: Tensor | None = None,
    ) -> Tensor:
        """See the class."""
        logits_BTV = super().forward(tokens, length, segment)
        if place is None:
            return logits_BTV
        return logits_BTV.take_along_dim(place[:, :, None], dim=1)


class _Past:
    """What a decoder keeps from one token to the next."""

    def __init__(self) -> None:
        self.encoded: Any = None
        self.keys_and_values: Any = None

    def choose(self, row_N: Tensor) -> None:
        """Keep these rows, in this order."""
        if self.encoded is not None:
            self.encoded = tuple(part[row_N] for part in self.encoded)
            self.keys_and_values.reorder_cache(row_N)


class SequenceToSequenceModel(_Wrapped):
    """Tokens (B, S), how many are real (B,), what the decoder reads (B, T) -> logits (B, T, V).

    With a past the source is encoded once, each token of the target is read once, and the logits are those after the last.
    """

    def new_past(self) -> _Past:
        """Of nothing yet."""
        return _Past()

    def forward(
        self, tokens: Tensor, target: Tensor, length: Tensor | None = None, past: _Past | None = None
    ) -> Tensor:
        """See the class."""
        mask = _mask(tokens, length)
        if past is None:
            return self._logits(input_ids=tokens, attention_mask=mask, decoder_input_ids=target)
        out = self.network(
            input_ids=tokens if past.encoded is None else None,
            attention_mask=mask,
            encoder_outputs=past.encoded,
            decoder_input_ids=target,
            past_key_values=past.keys_and_values,
            use_cache=True,
        )
        past.encoded, past.keys_and_values = (out.encoder_last_hidden_state,), out.past_key_values
        logits: Tensor = out.logits[:, -1:]
        return logits


class ImageModel(_Wrapped):
    """Pictures (B, C, H, W) -> logits (B, outputs)."""

    def forward(self, image: Tensor) -> Tensor:
        """See the class."""
        return self._logits(pixel_values=image)


_WRAPPERS: dict[str, type[_Wrapped]] = {
    "causal_lm": CausalLanguageModel,
    "masked_lm": MaskedLanguageModel,
    "seq2seq": SequenceToSequenceModel,
    "image_classification": ImageModel,
}


def build(config: HuggingFaceConfig, objective: ObjectiveConfig) -> Modules:
    """The architecture with its head.

    Raises:
        SpecError: ``transformers`` is missing, does not know the architecture, or has no such head for it.
    """
    transformers = library()
    fields = dict(config.config)
    kind = fields.pop("model_type", None)
    if config.vocabulary is not None and "vocab_size" in fields:
        fields["vocab_size"] = max(fields["vocab_size"], config.vocabulary)
    if config.head.endswith("classification"):
        fields["num_labels"] = 1 if objective.kind == "binary" else config.outputs or 2
        for repeated in ("id2label", "label2id"):
            fields.pop(repeated, None)
    try:
        theirs = transformers.AutoConfig.for_model(kind, **fields)
        theirs.use_cache = False
        with _without_values():
            network = getattr(transformers, _CLASSES[config.head]).from_config(theirs, dtype=torch.float32)
    except Exception as error:  # whatever their validators raise
        raise SpecError(
            f"model.architecture: transformers {transformers.__version__} builds no {config.head} of {kind!r}:"
            f" {_one_line(error)}"
        ) from error
    wrapper = _WRAPPERS.get(config.head, TextModel)
    return with_blocks({"model": wrapper(network.train())}, config.blocks)


def renamed(model: nn.Module, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A file's tensors under our names, by what ``transformers`` itself renames for the architecture; an export of ours has
    them already.

    Files that it converts in other ways (experts that it joins, say) keep names that nothing here has.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    if all(name.startswith(("network.", "model/network.")) for name in weights):
        return weights
    network: Any = model.network
    rules = [rule for rule in get_model_conversion_mapping(network) if isinstance(rule, WeightRenaming)]
    there = network.state_dict()
    names = {
        f"network.{rename_source_key(name, rules, [], network.base_model_prefix, there)[0]}": name
        for name in weights
    }
    return LazyWeights({ours: partial(weights.__getitem__, name) for ours, name in names.items()})


def save(folder: Path, modules: Modules, objective: ObjectiveConfig, classes: Sequence[str]) -> None:
    """Write ``config.json`` and ``model.safetensors`` for ``from_pretrained``, and read them back.

    Args:
        folder: that is there.
        modules: with what was trained.
        objective: it was trained with.
        classes: names of the classes, or none.

    Raises:
        CheckpointError: what was written does not read back the same.
    """
    network: Any = modules["model"].network
    config = network.config
    config.use_cache = True  # only training has no use for it
    if classes and config.num_labels == len(classes):
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: number for number, name in enumerate(classes)}
    config.problem_type = _PROBLEMS.get(objective.kind)
    if isinstance(objective, SequenceToSequenceConfig):
        for settings in (config, network.generation_config):
            settings.decoder_start_token_id = objective.start_token
            settings.eos_token_id = objective.end_token
    with _quietly():
        network.save_pretrained(folder)
        again = type(network).from_pretrained(folder, local_files_only=True)
    there = again.state_dict()
    for name, tensor in network.state_dict().items():
        if name not in there or not torch.equal(there[name], tensor.to(there[name])):
            raise CheckpointError(f"{folder}: {name} does not read back as it was written")


_PROBLEMS = {
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
"""Kind of objective -> what ``transformers`` calls it."""


@contextmanager
def _quietly() -> Iterator[None]:
    """Without bars of progress, which it shows for a second's work too."""
    from transformers.utils import logging as theirs

    shown = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            theirs.enable_progress_bar()


def _without_values() -> AbstractContextManager[Any]:
    """No first values for fake tensors, which have none: some of theirs go by what was drawn."""
    if active_fake_mode() is None:
        return nullcontext()
    from transformers.initialization import no_init_weights

    context: AbstractContextManager[Any] = no_init_weights()
    return context


def library() -> Any:
    """The module ``transformers``. Raises SpecError where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise SpecError(
            "model.family: huggingface needs transformers; install trainwright[hf], here and on the workers"
            " (environment.pip)"
        ) from None
    return transformers


def known_fields(model_type: str | None) -> list[str]:
    """Names of a kind's config. Raises SpecError where ``transformers`` does not know the kind."""
    transformers = library()
    try:
        return list(transformers.AutoConfig.for_model(model_type).to_dict())
    except (ValueError, KeyError) as error:
        raise SpecError(
            f"model.architecture: transformers {transformers.__version__} knows no model_type {model_type!r}"
        ) from error


def described(architecture: str) -> dict[str, Any]:
    """The ``config.json`` of a name that is no folder here.

    Raises:
        SpecError: ``transformers`` can't look it up.
    """
    transformers = library()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each retry
    try:
        found: dict[str, Any] = transformers.AutoConfig.from_pretrained(architecture).to_dict()
    except Exception as error:  # of their own, of the network, of the name
        raise SpecError(
            f"model.architecture: {architecture} is no folder with a config.json, and transformers can't look it up:"
            f" {_one_line(error)}"
        ) from error
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _mask(tokens: Tensor, length: Tensor | None) -> Tensor | None:
    if length is None:
        return None
    return (torch.arange(tokens.shape[1], device=tokens.device) < length[:, None]).long()
