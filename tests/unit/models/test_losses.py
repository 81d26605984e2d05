"""Weights of classes, focal loss and smoothed labels, against torch's own and the paper's formula."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from orchestrator.errors import SpecError
from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import (
    BertConfig,
    BinaryConfig,
    CausalLmConfig,
    ClassificationConfig,
    GptConfig,
    MlpConfig,
    TokenClassificationConfig,
)

MLP = MlpConfig(in_features=3, outputs=3)
LOGITS = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2, 2])
WEIGHTS = (1.0, 2.0, 0.5)


class Given(nn.Module):
    def forward(self, features, *rest):
        return features


def mean(config, objective, batch):
    sums = build_objective(config, objective).loss("model", {"model": Given()}, batch)
    units = build_objective(config, objective).units("model", batch)
    assert units == sums.count, "what the loop divides by is what the loss sums over"
    return sums.loss / sums.count


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_give_torch_s_weighted_mean(smoothing):
    asked = ClassificationConfig(class_weights=WEIGHTS, label_smoothing=smoothing)
    got = mean(MLP, asked, {"features": LOGITS, "label": LABELS})
    want = F.cross_entropy(LOGITS, LABELS, weight=torch.tensor(WEIGHTS), label_smoothing=smoothing)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("chunk_tokens", [None, 3])
def test_of_conversations_the_answers_tokens_alone_count(chunk_tokens):
    config = GptConfig(size="debug", vocabulary=11, context=8)
    torch.manual_seed(0)
    model = build_modules(config, CausalLmConfig())["model"]
    tokens = torch.randint(0, 11, (3, 9))
    mask = torch.randint(0, 2, (3, 9), generator=torch.Generator().manual_seed(1))
    batch = {"tokens": tokens, "answer_mask": mask, "length": torch.tensor([9, 9, 6])}
    objective = build_objective(config, CausalLmConfig(chunk_tokens=chunk_tokens))
    sums, evaluated = (
        objective.loss("model", {"model": model}, batch),
        objective.evaluate({"model": model}, batch),
    )
    mask[2, 6:] = 0
    labels = tokens.masked_fill(mask == 0, -100)[:, 1:].flatten()
    logits = model(tokens[:, :-1]).flatten(0, 1)
    assert sums.count == objective.units("model", batch) == mask[:, 1:].sum()
    torch.testing.assert_close(sums.loss / sums.count, F.cross_entropy(logits, labels))
    right, count = evaluated["accuracy"]
    assert (right, count) == ((logits.argmax(-1) == labels).sum(), mask[:, 1:].sum())


def test_padding_counts_nothing():
    asked = ClassificationConfig(class_weights=WEIGHTS)
    weight = torch.tensor([1.0, 1, 1, 1, 1, 0, 0, 0])
    got = mean(MLP, asked, {"features": LOGITS, "label": LABELS, "weight": weight})
    want = F.cross_entropy(LOGITS[:5], LABELS[:5], weight=torch.tensor(WEIGHTS))
    torch.testing.assert_close(got, want)


def test_focal_loss_is_the_paper_s():
    share = LOGITS.softmax(1).gather(1, LABELS[:, None])[:, 0]
    got = mean(MLP, ClassificationConfig(focal_gamma=2.0), {"features": LOGITS, "label": LABELS})
    torch.testing.assert_close(got, (-((1 - share) ** 2) * share.log()).mean())
    logits, label = LOGITS[:, :1], (LABELS > 1).long()
    share = torch.where(label > 0, logits[:, 0].sigmoid(), 1 - logits[:, 0].sigmoid())
    got = mean(MlpConfig(in_features=1), BinaryConfig(focal_gamma=1.5), {"features": logits, "label": label})
    torch.testing.assert_close(got, (-((1 - share) ** 1.5) * share.log()).mean())


def test_tokens_have_smoothed_labels_and_weights_too():
    asked = TokenClassificationConfig(class_weights=WEIGHTS, label_smoothing=0.1)
    config = BertConfig(vocabulary=5, context=4, layers=1, heads=1, width=4, outputs=3)
    logits = LOGITS.reshape(2, 4, 3)
    label = torch.where(torch.arange(8) == 5, -100, LABELS).reshape(2, 4)
    got = mean(config, asked, {"tokens": logits, "label": label})
    want = F.cross_entropy(
        LOGITS, label.flatten(), weight=torch.tensor(WEIGHTS), label_smoothing=0.1, ignore_index=-100
    )
    torch.testing.assert_close(got, want)


def test_as_many_weights_as_classes():
    with pytest.raises(
        SpecError, match=r"objective.class_weights: 2 weights are given, but there are 3 classes"
    ):
        build_objective(MLP, ClassificationConfig(class_weights=(1.0, 2.0)))
