"""A first job for each family, on data that is bundled."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.cli.first_job.draft import Draft, Length

FAMILIES = ("mlp", "cnn", "rnn", "lstm", "gru", "gpt", "bert", "gan", "autoencoder")
"""Families that a first job is written for: all."""


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
        case "gan":
            return Draft(
                family, _source("digits"), _pixels("image"), rate="5.0e-4", betas=", betas: [0.5, 0.99]"
            )
        case _:
            pixels = ["columns: {features: image}", *_pixels("features")]
            return Draft(family, _source("digits"), pixels, rate="2.0e-3")
