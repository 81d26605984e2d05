"""A first job for each family, on data that is bundled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.cli.first_job.draft import Draft, Length

FAMILIES = ("mlp", "cnn", "rnn", "lstm", "gru", "gpt", "bert", "transformer", "gan", "autoencoder", "custom")
"""Families that a first job is written for: all."""

OWN_MODEL = "my_models.py"
"""The file beside the job of family custom."""
OWN_MODEL_TEXT = '''\
"""A model of your own. The function is named in the job file: model.factory."""

import torch
from torch import nn


class Digits(nn.Module):
    """Two convolutions, and one linear layer to the classes."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, classes)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(samples, 1, 8, 8) -> (samples, classes). The parameter is called as the tensor of the batch."""
        strokes = torch.relu(self.second(torch.relu(self.first(image))))
        return self.head(strokes.amax(dim=(2, 3)))


def build(width: int = 32, classes: int = 10) -> nn.Module:
    """Called with model.config when the job is planned, and on every worker. Random numbers: from torch alone."""
    return Digits(width, classes)
'''
"""What is in it: a model that learns the bundled digits."""


def _source(name: str) -> tuple[str, ...]:
    return (
        "kind: builtin          # your own files: trainwright init --data FILE",
        f"name: {name}",
    )


def _prepare(kind: str, **fields: object) -> Sequence[str]:
    lines = [f"  {name}: {value}" for name, value in {"kind": kind, **fields}.items()]
    return ["prepare:                 # other ways: trainwright explain data.prepare", *lines]


def _pixels(tensor: str) -> Sequence[str]:
    return [
        "transforms:",
        f"  - {{kind: scale, tensor: {tensor}, factor: 0.125, offset: -1.0}}   # from 0..16 to -1..1",
    ]


def draft_for_family(family: str) -> Draft:
    """A job of one of ``FAMILIES``."""
    words = "{kind: words, vocabulary: 4000, lowercase: true}"
    few_steps = Length(max_steps=300)
    match family:
        case "mlp":
            per_column = ["transforms:", "  - {kind: normalize, tensor: features, per: element}"]
            return Draft(family, _source("breast_cancer"), per_column)
        case "cnn":
            return Draft(family, _source("digits"), _pixels("image"))
        case "rnn":
            texts = _prepare("tokenize", tokenizer=words, context=48, classify="false", label="kind")
            return Draft(family, _source("docstrings"), texts, objective="classification", length=few_steps)
        case "lstm":
            windows = _prepare("windows", past=100, horizon=20)
            return Draft(
                family,
                _source("neuron"),
                windows,
                "{kind: split, fraction: 0.2, by: position}",
                "forecasting",
                length=few_steps,
            )
        case "gru":
            texts = _prepare("pack", tokenizer=words, context=32)
            return Draft(family, _source("docstrings"), texts, objective="causal_lm", length=few_steps)
        case "gpt":
            texts = _prepare("pack", tokenizer="{kind: characters, unknown: true}", context=64)
            return Draft(family, _source("pydoc_topics"), texts, length=few_steps)
        case "bert":
            texts = _prepare(
                "pack", tokenizer="{kind: bpe, vocabulary: 2048}", context=64, next_token="false"
            )
            return Draft(family, _source("docstrings"), texts, objective="masked_lm", length=few_steps)
        case "transformer":
            pairs = _prepare(
                "pairs",
                source="text",
                target="kind",
                tokenizer=words,
                context=48,
                target_context=4,
                long="cut",
            )
            return Draft(family, _source("docstrings"), pairs, length=few_steps)
        case "gan":
            return Draft(
                family, _source("digits"), _pixels("image"), rate="5.0e-4", betas=", betas: [0.5, 0.99]"
            )
        case "custom":
            own = (
                f"factory: {Path(OWN_MODEL).stem}:build   # module:function of a file in this folder",
                "config: {width: 32}         # the function's arguments",
            )
            return Draft(family, _source("digits"), _pixels("image"), objective="classification", model=own)
        case _:
            pixels = ["columns: {features: image}", *_pixels("features")]
            return Draft(family, _source("digits"), pixels, rate="2.0e-3")
