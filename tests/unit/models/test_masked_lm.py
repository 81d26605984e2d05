"""Which tokens BERT has to predict, and what it sees in their place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from orchestrator.errors import SpecError
from orchestrator.models import build_objective
from orchestrator.models.configs import BertConfig, MaskedLmConfig

VOCABULARY, MASK = 500, 4
CONFIG = BertConfig(size="debug", vocabulary=VOCABULARY, context=100)


class _Spy(torch.nn.Module):
    """Keeps what it is given."""

    def forward(self, tokens: Tensor, length: Tensor | None, segment: Tensor | None, place: Tensor) -> Tensor:
        self.tokens, self.place = tokens, place
        return torch.zeros(*place.shape, VOCABULARY)


def _masked(batch: dict[str, Tensor], **fields) -> tuple[Tensor, Tensor]:
    """Tokens as the model sees them, and whether each (B, T) is to be predicted."""
    objective = build_objective(
        CONFIG, MaskedLmConfig(mask_token=MASK, special_tokens=(0, 1, 2, 3), **fields)
    )
    spy = _Spy()
    objective.loss("model", {"model": spy}, batch)
    place, weight = objective._chosen(batch)
    chosen = torch.zeros_like(batch["tokens"], dtype=torch.float32).scatter_add_(1, place, weight)
    return spy.tokens, chosen > 0


def _batch(samples: int = 400) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "tokens": torch.randint(5, VOCABULARY, (samples, 100), generator=generator),
        "sample_seed": torch.randint(0, 2**60, (samples,), generator=generator),
    }


def test_fifteen_of_a_hundred_tokens_are_chosen_evenly():
    _, chosen = _masked(_batch())
    assert (chosen.sum(1) == 15).all()
    assert chosen.float().mean(0).min() > 0.08
    assert chosen.float().mean(0).max() < 0.25


def test_eight_in_ten_are_hidden_one_replaced_one_left():
    batch = _batch()
    seen, chosen = _masked(batch)
    assert torch.equal(seen[~chosen], batch["tokens"][~chosen])
    hidden = (seen[chosen] == MASK).float().mean()
    same = (seen[chosen] == batch["tokens"][chosen]).float().mean()
    assert hidden == pytest.approx(0.8, abs=0.02)
    assert same == pytest.approx(0.1, abs=0.02)
    replaced = seen[chosen & (seen != MASK) & (seen != batch["tokens"])]
    assert len(replaced.unique()) > VOCABULARY / 2


def test_special_tokens_and_what_fills_up_are_never_chosen():
    batch = _batch(50)
    batch["tokens"][:, ::3] = 1
    batch["length"] = torch.full((50,), 40)
    seen, chosen = _masked(batch)
    assert not chosen[:, ::3].any()
    assert not chosen[:, 40:].any()
    assert torch.equal(seen[:, 40:], batch["tokens"][:, 40:])
    eligible = 40 - len(range(0, 40, 3))
    assert (chosen.sum(1) == round(eligible * 0.15)).all()


def test_a_sample_has_the_same_mask_in_any_batch():
    batch = _batch(8)
    seen, chosen = _masked(batch)
    for index in range(8):
        one_seen, one_chosen = _masked({name: tensor[index : index + 1] for name, tensor in batch.items()})
        assert torch.equal(one_seen[0], seen[index])
        assert torch.equal(one_chosen[0], chosen[index])
    again, _ = _masked({**batch, "sample_seed": batch["sample_seed"] + 1})
    assert not torch.equal(again, seen)


def test_words_are_chosen_whole():
    batch = _batch(200)
    batch["word"] = torch.arange(100).div(3, rounding_mode="floor").expand(200, -1).contiguous()
    _, chosen = _masked(batch, whole_words=True)
    of_words = chosen[:, :99].reshape(200, 33, 3).sum(2)
    assert set(of_words.unique().tolist()) == {0, 3}
    assert ((chosen.sum(1) >= 15) & (chosen.sum(1) <= 17)).all()


def test_a_sample_of_special_tokens_alone_has_nothing_to_predict():
    batch = {"tokens": torch.ones(2, 10, dtype=torch.int64), "sample_seed": torch.arange(2)}
    _, chosen = _masked(batch)
    assert not chosen.any()


def test_a_mask_token_must_be_known_and_in_the_vocabulary():
    with pytest.raises(SpecError, match="the data names no mask token"):
        build_objective(CONFIG, MaskedLmConfig())
    with pytest.raises(SpecError, match=r"mask_token 500 is not below model\.vocabulary 500"):
        build_objective(CONFIG, MaskedLmConfig(mask_token=500))
