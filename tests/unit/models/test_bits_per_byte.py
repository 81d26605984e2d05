"""Bits for each byte of text: the tokens' own bytes, of those that are predicted."""

import math

import numpy as np
import pytest
import torch

from orchestrator.data.preparations.tokenizers import (
    UNKNOWN,
    ByteTokenizer,
    CharacterTokenizer,
    LibraryTokenizer,
    train_bpe,
    train_words,
)
from orchestrator.errors import SpecError
from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import CausalLmConfig, GptConfig
from orchestrator.models.metrics import summarized
from orchestrator.planning.fit import check_measured
from orchestrator.spec.job import JobSpec
from orchestrator.telemetry.evaluation_sums import EvaluationSums

TEXT = ["the thin thread — ähnlich, naïve 🙂\n", "then the other thing"]


@pytest.mark.parametrize(
    "tokenizer",
    [
        ByteTokenizer(("<end>",)),
        CharacterTokenizer.fitted(TEXT, ("<end>",)),
        train_bpe(TEXT * 4, 300, ("<end>",)),
    ],
    ids=["bytes", "characters", "bpe"],
)
def test_tokens_have_the_bytes_of_their_text(tokenizer):
    sizes = tokenizer.token_bytes()
    assert sizes.shape == (tokenizer.vocabulary,) and sizes[tokenizer.specials["<end>"]] == 0
    for text, tokens in zip(TEXT, tokenizer.encode(TEXT), strict=True):
        assert sizes[tokens].sum() == len(text.encode())


def test_those_that_lose_text_have_none():
    assert train_words(TEXT, 40).token_bytes() is None
    assert CharacterTokenizer.fitted(TEXT, (UNKNOWN,)).token_bytes() is None
    changed = train_bpe(TEXT, 300).to_json()
    definition = changed.partition('"definition": ')[2][:-1]
    for part, other in (
        ('"normalizer": null', '"normalizer": {"type": "NFC"}'),
        ('"add_prefix_space": false', '"add_prefix_space": true'),
    ):
        assert part in definition
        assert LibraryTokenizer(definition.replace(part, other)).token_bytes() is None


def test_it_is_the_loss_over_the_bytes_of_what_is_predicted():
    """Padding counts for nothing, and two shares come to what the whole does."""
    torch.manual_seed(0)
    config = GptConfig(layers=1, heads=2, width=8, context=9, vocabulary=257)
    objective = CausalLmConfig(metrics=("bits_per_byte",))
    modules, made = build_modules(config, objective), build_objective(config, objective)
    tokens = torch.randint(0, 257, (4, 10))
    batch = {"tokens": tokens, "length": torch.tensor([10, 4, 10, 7]), "weight": torch.tensor([1.0, 1, 0, 1])}
    sizes = ByteTokenizer(("<end>",)).token_bytes()

    def found(*batches):
        sums = EvaluationSums(torch.device("cpu"))
        for one in batches:
            sums.add(made.evaluate(modules, one))
        return summarized(objective.measured, sums.totals(), (), sizes).values

    predicted = [tokens[row, 1:length] for row, length in ((0, 10), (1, 4), (3, 7))]
    count = sum(len(one) for one in predicted)
    size = int(np.take(sizes, torch.cat(predicted).numpy()).sum())
    whole = found(batch)
    assert whole["bits_per_byte"] == pytest.approx(whole["loss"] * count / math.log(2) / size)
    halves = [{name: one[part] for name, one in batch.items()} for part in (slice(0, 2), slice(2, 4))]
    assert found(*halves)["bits_per_byte"] == pytest.approx(whole["bits_per_byte"], rel=1e-6)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (None, "the data comes as tokens"),
        (
            {
                "kind": "pack",
                "column": "text",
                "context": 8,
                "tokenizer": {"kind": "words", "vocabulary": 99},
            },
            "kind words",
        ),
        (
            {
                "kind": "pack",
                "column": "text",
                "context": 8,
                "tokenizer": {"kind": "characters", "unknown": True},
            },
            "kind char",
        ),
        ({"kind": "pack", "column": "text", "context": 8, "tokenizer": {"kind": "bytes"}}, ""),
    ],
)
def test_where_bytes_are_not_known_it_is_refused(prepare, said):
    job = JobSpec.model_validate(
        {
            "name": "job",
            "model": {"family": "gpt"},
            "objective": {"kind": "causal_lm", "metrics": ["bits_per_byte"]},
            "data": {"train": {"kind": "text", "path": "x.txt"}, **({"prepare": prepare} if prepare else {})},
            "training": {"max_steps": 1},
        }
    )
    if not said:
        check_measured(job)
        return
    with pytest.raises(SpecError, match=f"bits_per_byte needs to know .* {said}"):
        check_measured(job)
