"""torch.nn's own modules with the same weights are the reference."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from orchestrator.models import build_modules
from orchestrator.models.configs import (
    CausalLmConfig,
    ClassificationConfig,
    ForecastingConfig,
    GruConfig,
    LstmConfig,
    RnnConfig,
)

REFERENCES = {
    "rnn": (RnnConfig, lambda i, h, n: nn.RNN(i, h, n, batch_first=True)),
    "lstm": (LstmConfig, lambda i, h, n: nn.LSTM(i, h, n, batch_first=True)),
    "gru": (GruConfig, lambda i, h, n: nn.GRU(i, h, n, batch_first=True)),
}
every_family = pytest.mark.parametrize("family", REFERENCES)


def _reference(family: str, model: nn.Module, in_width: int, width: int, layers: int) -> nn.RNNBase:
    reference = REFERENCES[family][1](in_width, width, layers)
    reference.load_state_dict(model.layers.state_dict())
    return reference


@every_family
def test_a_language_model_is_embedding_recurrence_and_linear_layer(family: str):
    config = REFERENCES[family][0](vocabulary=11, width=8, layers=2, embedding_width=6)
    model = build_modules(config, CausalLmConfig())["model"].eval()
    reference = _reference(family, model, 6, 8, 2)
    tokens = torch.randint(0, 11, (3, 9))
    states, _ = reference(nn.functional.embedding(tokens, model.embedding.weight))
    expected = nn.functional.linear(states, model.head.weight, model.head.bias)
    torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-5)


@every_family
def test_a_forecast_is_the_last_state_and_a_linear_layer(family: str):
    config = REFERENCES[family][0](series=3, past=7, horizon=4, width=8, layers=2)
    model = build_modules(config, ForecastingConfig())["model"].eval()
    reference = _reference(family, model, 3, 8, 2)
    past = torch.randn(5, 7, 3)
    states, _ = reference(past - past[:, -1:])
    change = nn.functional.linear(states[:, -1], model.head.weight, model.head.bias).reshape(5, 4, 3)
    torch.testing.assert_close(model(past), past[:, -1:] + change, rtol=0, atol=1e-5)


@pytest.mark.parametrize("last_value", [False, True])
def test_a_season_is_what_a_forecast_differs_from(last_value: bool):
    config = LstmConfig(series=2, past=7, horizon=5, width=8, period=3, last_value=last_value)
    model = build_modules(config, ForecastingConfig())["model"].eval()
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    past = torch.randn(4, 7, 2)
    torch.testing.assert_close(model(past), past[:, [4, 5, 6, 4, 5]], rtol=0, atol=0)


@pytest.mark.parametrize("bidirectional", [False, True])
@every_family
def test_what_fills_a_sequence_up_is_not_read(family: str, bidirectional: bool):
    config = REFERENCES[family][0](vocabulary=11, outputs=2, width=8, layers=2, bidirectional=bidirectional)
    model = build_modules(config, ClassificationConfig())["model"].eval()
    tokens, length = torch.randint(0, 11, (4, 9)), torch.tensor([9, 1, 4, 6])
    together = model(tokens, length)
    for index in range(4):
        alone = model(tokens[index : index + 1, : length[index]])
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-5, atol=1e-6)


def test_a_projected_lstm_has_narrow_outputs():
    config = LstmConfig(vocabulary=11, width=16, projection=6, embedding_width=6, tied_embeddings=True)
    model = build_modules(config, CausalLmConfig())["model"]
    assert model.head.weight is model.embedding.weight
    assert model(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 11)


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        (RnnConfig, {"projection": 4}, "projection is only for family lstm"),
        (LstmConfig, {"width": 8, "projection": 8}, "projection 8 must be less than width 8"),
        (
            LstmConfig,
            {"width": 8, "embedding_width": 9, "tied_embeddings": True},
            "tied_embeddings needs embedding_width",
        ),
        (LstmConfig, {"past": 12, "period": 24}, "period 24 must not be more than the 12 steps of past"),
    ],
)
def test_what_does_not_fit_is_refused(family, fields, message: str):
    with pytest.raises(ValueError, match=message):
        family(**fields)
