"""CTC as Graves et al. define it, and error rates that do not depend on how samples are split."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import BertConfig, CtcConfig, GruConfig, LstmConfig
from orchestrator.models.objectives.ctc import ctc_loss, edit_distance, greedy
from orchestrator.models.sizes import count


class Given(nn.Module):
    """Says what it is told, (B, T, O)."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, signal, length=None):
        return self.logits[signal[:, 0, 0].long()]


def collapsed(path):
    return tuple(one for one, _ in itertools.groupby(path) if one)


def test_the_loss_is_the_sum_over_all_alignments():
    torch.manual_seed(0)
    logits, texts, frames = torch.randn(3, 5, 4), [(1, 1, 2), (3,), (2, 1)], [5, 4, 3]
    probability = logits.double().softmax(-1)
    expected = []
    for row, (text, length) in enumerate(zip(texts, frames, strict=True)):
        paths = [path for path in itertools.product(range(4), repeat=length) if collapsed(path) == text]
        chance = sum(math.prod(probability[row, t, one].item() for t, one in enumerate(p)) for p in paths)
        expected.append(-math.log(chance))
    batch = batch_of(texts, frames)
    objective = build_objective(GruConfig(channels=1, outputs=4), CtcConfig(space=0))
    sums = objective.loss("model", {"model": Given(logits)}, batch)
    assert sums.loss.item() == pytest.approx(sum(expected), rel=1e-6)
    assert sums.count.item() == objective.units("model", batch).item() == 6


def batch_of(texts, frames, weight=None):
    longest = max(map(len, texts))
    target = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
    batch = {
        "signal": torch.arange(len(texts)).float()[:, None, None].expand(-1, 1, 8),
        "length": torch.tensor(frames),
        "target": target,
        "target_length": torch.tensor([len(text) for text in texts]),
        "sample_seed": torch.zeros(len(texts), dtype=torch.int64),
    }
    return batch if weight is None else {**batch, "weight": torch.tensor(weight)}


def test_the_gradient_is_that_of_torch():
    torch.manual_seed(1)
    target, frames, lengths = torch.randint(1, 5, (3, 4)), torch.tensor([9, 8, 7]), torch.tensor([4, 3, 2])
    scale = torch.tensor([1.0, 0.5, 2.0])
    gradients = []
    for ours in (True, False):
        given = torch.randn(9, 3, 5, generator=torch.Generator().manual_seed(2), requires_grad=True)
        log_probability = given.log_softmax(-1)
        if ours:
            loss, _ = ctc_loss(log_probability, target, frames, lengths)
        else:
            loss = nn.functional.ctc_loss(log_probability, target, frames, lengths, reduction="none")
        (loss * scale).sum().backward()
        gradients.append(given.grad)
    torch.testing.assert_close(*gradients)


def test_padding_and_texts_that_do_not_fit_leave_gradients_finite():
    logits = torch.randn(2, 4, 3)
    model = Given(logits)
    batch = batch_of([(1, 2), (1, 1, 1, 1)], [4, 1], weight=[1.0, 0.0])
    objective = build_objective(GruConfig(channels=1, outputs=3), CtcConfig(space=0))
    sums = objective.loss("model", {"model": model}, batch)
    sums.loss.backward()
    assert sums.count.item() == 2
    assert torch.isfinite(model.logits.grad).all() and not model.logits.grad[1].any()


def fewest_edits(one, other):
    """By definition, slowly."""
    if not one or not other:
        return len(one) + len(other)
    return min(
        fewest_edits(one[1:], other) + 1,
        fewest_edits(one, other[1:]) + 1,
        fewest_edits(one[1:], other[1:]) + (one[0] != other[0]),
    )


def test_edit_distances_are_the_fewest_edits():
    assert edit_distance("kitten", "sitting") == 3
    random = np.random.default_rng(0)
    for _ in range(60):
        one, other = (random.integers(0, 3, random.integers(0, 6)).tolist() for _ in range(2))
        assert edit_distance(one, other) == fewest_edits(one, other)


def test_repeats_are_one_and_blanks_none():
    assert greedy([[0, 1, 1, 0, 1, 2, 2, 3]], [7]) == [[1, 1, 2]]


def test_error_rates_are_sums_whatever_the_batches_are():
    # characters: 1 a, 2 space, 3 b; said "a b", "b", and one of weight 0
    heard = torch.tensor([[1, 0, 2, 1], [3, 3, 0, 0], [1, 1, 1, 1]])
    logits = nn.functional.one_hot(heard, 4).float() * 9
    objective = build_objective(GruConfig(channels=1, outputs=4), CtcConfig(space=2))
    texts, frames, weight = [(1, 2, 3), (3,), (3, 3)], [4, 4, 4], [1.0, 1.0, 0.0]
    whole = objective.evaluate({"model": Given(logits)}, batch_of(texts, frames, weight))
    assert [value.item() for value in (*whole["cer"], *whole["wer"])] == [1, 4, 1, 3]
    parts = [
        objective.evaluate(
            {"model": Given(logits[row : row + 1])},
            batch_of(texts[row : row + 1], frames[row : row + 1], weight[row : row + 1]),
        )
        for row in range(3)
    ]
    for name, (total, divisor) in whole.items():
        assert sum(part[name][0].item() for part in parts) == pytest.approx(total.item())
        assert sum(part[name][1].item() for part in parts) == pytest.approx(divisor.item())
    shown = objective.samples({"model": Given(logits)}, batch_of(texts, frames), 2)
    assert [(one.name, one.data.tolist()) for one in shown[:2]] == [("0 said", [1, 2, 3]), ("0 heard", [1, 2, 1])]  # fmt: skip


FAMILIES = {
    "gru": GruConfig(channels=3, outputs=5, width=8, bidirectional=True, layers=2, signal_length=12),
    "lstm": LstmConfig(channels=3, outputs=5, width=8, signal_length=12),
    "bert": BertConfig(size="debug", channels=3, outputs=5, context=12, signal_length=12),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_behind_a_sound_changes_nothing_and_operations_are_counted(family):
    torch.manual_seed(0)
    config, objective = FAMILIES[family], CtcConfig(space=0)
    model = build_modules(config, objective)["model"].eval()
    signal, length = torch.randn(2, 3, 12), torch.tensor([12, 7])
    noisy = signal.clone()
    noisy[1, :, 7:] = 99
    clean, other = model(signal, length), model(noisy, length)
    assert clean.shape == (2, 12, 5)
    torch.testing.assert_close(clean[1, :7], other[1, :7])
    torch.testing.assert_close(clean[1, :7], model(signal[1:, :, :7])[0], atol=1e-5, rtol=1e-4)
    counted = count(config, objective)
    assert counted.flops_per_sample > 0 and counted.activation_elements_per_sample > 0
