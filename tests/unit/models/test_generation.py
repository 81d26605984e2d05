"""Text drawn with what was read before at hand is the text drawn without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator.models import build_modules
from orchestrator.models.configs import CausalLmConfig, GptConfig, GruConfig, LstmConfig, RnnConfig
from orchestrator.models.objectives.generation import continued, drawn

VOCABULARY, CONTEXT = 23, 16
_TEXT: dict[str, Any] = {"vocabulary": VOCABULARY, "context": CONTEXT}
_RECURRENT: dict[str, Any] = {"width": 8, "embedding_width": 8, "layers": 2}
CONFIGS = {
    "learned": GptConfig(**_TEXT, layers=2, heads=2, width=16),
    "rotary, grouped": GptConfig(
        **_TEXT, layers=2, heads=4, heads_per_key_value=2, width=16, positions="rotary", norm="rms",
        feedforward="swiglu", bias=False, tied_embeddings=False,
    ),
    "rnn": RnnConfig(**_TEXT, **_RECURRENT),
    "lstm": LstmConfig(**_TEXT, **_RECURRENT, projection=4),
    "gru": GruConfig(**_TEXT, **_RECURRENT),
}  # fmt: skip


class Forgetful(nn.Module):
    """Reads everything anew for each token, as a model of one's own may."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.read: list[int] = []

    def forward(self, tokens_BT: Tensor) -> Tensor:
        self.read.append(tokens_BT.shape[1])
        return self.model(tokens_BT)


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(3)
    made = build_modules(CONFIGS[request.param], CausalLmConfig())["model"].eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return made


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
@pytest.mark.parametrize(("prompt", "tokens"), [(1, CONTEXT - 1), (5, 40), (CONTEXT, 3), (CONTEXT + 4, 9)])
def test_remembering_changes_no_text(model: nn.Module, prompt: int, tokens: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(prompt)
    begun = torch.randint(0, VOCABULARY, (3, prompt), generator=generator)
    chance = torch.rand(3, tokens, generator=generator)
    forgetful = Forgetful(model)
    expected = continued(forgetful, begun, chance, context=CONTEXT, temperature=temperature)
    assert torch.equal(continued(model, begun, chance, context=CONTEXT, temperature=temperature), expected)
    assert torch.equal(expected[:, :prompt], begun) and expected.shape[1] == prompt + tokens
    assert forgetful.read == [min(length, CONTEXT) for length in range(prompt, prompt + tokens)]
    assert temperature == 0 or len(expected[:, prompt:].unique()) > 1


def test_each_token_is_read_once_while_the_text_fits(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    model.register_forward_pre_hook(lambda _, given: read.append(given[0].shape[1]))
    continued(model, torch.zeros(2, 4, dtype=torch.long), torch.rand(2, 14), context=CONTEXT)
    assert read == [4, *[1] * (CONTEXT - 4), CONTEXT]
    assert len(read) == 14  # as many forwards on every rank, whatever its prompts are


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    likely = torch.tensor([0.5, 0.2, 0.0, 0.3])
    count = 10_000
    chance = torch.arange(count) / count
    tokens = drawn(likely.log().expand(count, -1), chance, 1.0)
    assert (tokens.bincount(minlength=4) / count - likely).abs().max() < 2e-4
    assert drawn(likely.log()[None], torch.tensor([0.99999994]), 1.0).item() == 3
    assert drawn(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([0.0]), 0.0).item() == 1
