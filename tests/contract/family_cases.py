"""Every family with every objective that it has, in small, and random batches for each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.models.configs import (
    AdversarialConfig,
    AutoencoderConfig,
    BertConfig,
    BinaryConfig,
    CausalLmConfig,
    ClassificationConfig,
    CnnConfig,
    CtcConfig,
    FamilyConfig,
    ForecastingConfig,
    GanConfig,
    GptConfig,
    GruConfig,
    LstmConfig,
    MaskedLmConfig,
    MlpConfig,
    MultilabelConfig,
    ObjectiveConfig,
    ReconstructionConfig,
    RegressionConfig,
    RnnConfig,
    SequenceToSequenceConfig,
    TokenClassificationConfig,
    TransformerConfig,
)
from orchestrator.models.tensors import TensorSpec


@dataclass(frozen=True)
class Case:
    name: str
    config: FamilyConfig
    objective: ObjectiveConfig
    optional: tuple[str, ...] = ()
    """Optional tensors that the batch has too."""


_TEXT = {"vocabulary": 19, "context": 12}
_LSTM = {"width": 8, "embedding_width": 8}
_IMAGE = {"channels": 1, "image_size": 8, "width": 8}
_ENDS = {"start_token": 0, "end_token": 1}
_MASK = {"mask_token": 2, "special_tokens": (0, 1)}

CASES = [
    Case("mlp-classification", MlpConfig(size="debug", in_features=5, outputs=3), ClassificationConfig()),
    Case(
        "mlp-categories",
        MlpConfig(size="base", width=16, in_features=5, outputs=3, cardinalities=(4, 7)),
        ClassificationConfig(label_smoothing=0.1),
    ),
    Case("mlp-pairs", MlpConfig(size="debug", in_features=0, cardinalities=(4, 7)), BinaryConfig()),
    Case("mlp-regression", MlpConfig(size="debug", in_features=5, outputs=2), RegressionConfig()),
    Case("mlp-binary", MlpConfig(size="debug", in_features=5), BinaryConfig(positive_weight=3)),
    Case("mlp-multilabel", MlpConfig(size="debug", in_features=5, outputs=4), MultilabelConfig()),
    Case(
        "mlp-missing-labels",
        MlpConfig(size="debug", in_features=5, outputs=4),
        MultilabelConfig(missing_labels=True, metrics=("f1",)),
    ),
    Case("mlp-missing-numbers", MlpConfig(size="debug", in_features=5, outputs=2), RegressionConfig(missing_labels=True)),
    Case("cnn-images", CnnConfig(size="debug", in_channels=2, image_size=8, outputs=3), ClassificationConfig()),
    Case(
        "cnn-bottleneck",
        CnnConfig(
            size="debug", block="bottleneck", stem="imagenet", squeeze_excitation=True, in_channels=2, image_size=16, outputs=3
        ),
        ClassificationConfig(),
    ),
    Case(
        "cnn-signals",
        CnnConfig(size="debug", dimensions=1, in_channels=2, signal_length=16, outputs=1),
        RegressionConfig(),
    ),
    Case("rnn-lm", RnnConfig(**_TEXT, **_LSTM, tied_embeddings=True), CausalLmConfig()),
    Case("lstm-lm", LstmConfig(**_TEXT, **_LSTM, layers=2, projection=4), CausalLmConfig()),
    Case("gru-lm", GruConfig(**_TEXT, **_LSTM), CausalLmConfig(), optional=("length",)),
    Case(
        "lstm-classification",
        LstmConfig(**_TEXT, **_LSTM, bidirectional=True, outputs=3),
        ClassificationConfig(),
        optional=("length",),
    ),
    Case("gru-signals", GruConfig(inputs="signal", channels=3, outputs=2, width=8), MultilabelConfig()),
    Case("lstm-forecasting", LstmConfig(series=3, past=6, horizon=4, width=8), ForecastingConfig()),
    Case("rnn-forecasting", RnnConfig(series=3, past=6, horizon=4, width=8, last_value=False), ForecastingConfig(loss="mae")),
    Case("gpt", GptConfig(size="debug", **_TEXT), CausalLmConfig(), optional=("length",)),
    Case("gpt-packed", GptConfig(size="debug", **_TEXT), CausalLmConfig(packed=True), optional=("length",)),
    Case("gpt-answers", GptConfig(size="debug", **_TEXT), CausalLmConfig(), optional=("length", "answer_mask")),
    Case(
        "gpt-llama",
        GptConfig(
            **_TEXT, layers=2, heads=4, heads_per_key_value=2, width=32, positions="rotary", norm="rms",
            feedforward="swiglu", feedforward_ratio=2.6875, bias=False, tied_embeddings=False,
        ),
        CausalLmConfig(packed=True),
    ),
    Case("bert-mlm", BertConfig(size="debug", **_TEXT), MaskedLmConfig(**_MASK), optional=("length",)),
    Case("gpt-chunks", GptConfig(size="debug", **_TEXT), CausalLmConfig(chunk_tokens=5), optional=("length",)),
    Case("bert-chunks", BertConfig(size="debug", **_TEXT), MaskedLmConfig(**_MASK, chunk_tokens=3), optional=("length",)),
    Case("bert-words", BertConfig(size="debug", **_TEXT), MaskedLmConfig(**_MASK, share=0.3, whole_words=True)),
    Case(
        "bert-classification",
        BertConfig(size="debug", **_TEXT, outputs=3),
        ClassificationConfig(),
        optional=("length", "segment"),
    ),
    Case(
        "bert-tokens",
        BertConfig(size="debug", **_TEXT, outputs=3),
        TokenClassificationConfig(),
        optional=("length",),
    ),
    Case(
        "gru-ctc",
        GruConfig(channels=3, outputs=5, width=8, bidirectional=True),
        CtcConfig(space=2),
        optional=("length",),
    ),
    Case(
        "bert-ctc",
        BertConfig(size="debug", channels=3, outputs=5, context=16),
        CtcConfig(space=0),
        optional=("length",),
    ),
    Case("transformer", TransformerConfig(size="debug", **_TEXT), SequenceToSequenceConfig(**_ENDS, label_smoothing=0.1)),
    Case(
        "transformer-lengths",
        TransformerConfig(size="debug", **_TEXT, target_context=9),
        SequenceToSequenceConfig(**_ENDS, metrics=("exact_match",)),
        optional=("length", "target_length"),
    ),
    Case(
        "transformer-llama",
        TransformerConfig(
            **_TEXT, layers=2, decoder_layers=1, heads=4, heads_per_key_value=2, width=32, positions="rotary", norm="rms",
            norm_first=True, feedforward="swiglu", bias=False, tied_embeddings=False, target_vocabulary=23, dropout=0,
        ),
        SequenceToSequenceConfig(**_ENDS),
        optional=("length", "target_length"),
    ),
    Case("gan", GanConfig(size="debug", **_IMAGE), AdversarialConfig()),
    Case("gan-wasserstein", GanConfig(size="debug", **_IMAGE), AdversarialConfig(loss="wasserstein", gradient_penalty=10)),
    Case("gan-hinge", GanConfig(size="debug", layers="mlp", spectral_norm=True, **_IMAGE), AdversarialConfig(loss="hinge")),
    Case("autoencoder", AutoencoderConfig(size="debug", in_features=6), ReconstructionConfig(noise=0.1)),
    Case(
        "autoencoder-variational",
        AutoencoderConfig(size="debug", layers="convolution", variational=True, **_IMAGE),
        ReconstructionConfig(beta=2),
    ),
]  # fmt: skip

IDS = [case.name for case in CASES]


def random_batch(case: Case, specs: dict[str, TensorSpec], samples: int, seed: int = 0) -> dict[str, Tensor]:
    """A batch as the objective's specs ask for."""
    generator = torch.Generator().manual_seed(seed)
    length = specs["tokens"].longest if "tokens" in specs else 16
    batch = {"sample_seed": torch.randint(0, 2**62, (samples,), generator=generator)}
    for name, spec in specs.items():
        if spec.optional and name not in case.optional:
            continue
        side = getattr(case.config, "image_size", None) if name == "image" else length
        if name == "target":
            side = spec.longest or length
        shape = (samples, *(side if size is None else size for size in spec.shape))
        if spec.kind == "float":
            batch[name] = torch.randn(shape, generator=generator)
        else:
            batch[name] = torch.randint(0, spec.below or 3, shape, generator=generator)
    if "length" in batch:
        batch["length"] = torch.randint(4, length + 1, (samples,), generator=generator)
    if case.objective.kind == "ctc":
        batch["target"] = batch["target"][:, :5].clamp(min=1)
        batch["target_length"] = batch["target_length"] + 2
    elif "target_length" in batch:
        longest = specs["target"].longest
        batch["target_length"] = torch.randint(2, longest + 1, (samples,), generator=generator)
    for name in ("document", "word"):
        if name in batch:
            batch[name] = batch[name].clamp(max=1).cumsum(1)
    if "cardinalities" in type(case.config).model_fields and case.config.cardinalities:
        batch["categories"] %= torch.tensor(case.config.cardinalities)
    if case.objective.takes_missing_labels:  # the first sample lacks all
        lacks = (
            torch.rand(batch["label"].shape, generator=generator) < torch.linspace(1, 0.2, samples)[:, None]
        )
        label = (batch["label"] > 0).float() if case.objective.kind == "multilabel" else batch["label"]
        batch["label"] = label.masked_fill(lacks, torch.nan)
    if case.objective.kind == "token_classification":
        batch["label"][:, ::3] = -100
    return batch
