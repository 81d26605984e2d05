"""Text drawn with what was read before at hand is the text drawn without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orchestrator.models import build_modules
from orchestrator.models.configs import CausalLmConfig, GptConfig, GruConfig, LstmConfig, RnnConfig
from orchestrator.models.huggingface import save_huggingface
from orchestrator.models.objectives.generation import continued, drawn, likeliest_continued

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


@pytest.mark.parametrize(("beams", "penalty"), [(3, 1.0), (4, 0.0), (2, 2.0)])
def test_beams_go_on_as_those_of_transformers(tmp_path: Path, beams: int, penalty: float) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    config = GptConfig(**{**_TEXT, "context": 24}, layers=2, heads=2, width=16, feedforward="gelu_tanh")
    modules = build_modules(config, CausalLmConfig())
    with torch.no_grad():
        for parameter in modules["model"].parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    save_huggingface(str(tmp_path), config, modules)
    network = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    prompt = torch.randint(0, VOCABULARY, (8, 5), generator=torch.Generator().manual_seed(1))
    for ends in ((1,), (1, 7)):
        theirs = network.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False, num_beams=beams,
            length_penalty=penalty, early_stopping="never", eos_token_id=list(ends), pad_token_id=ends[0],
        )  # fmt: skip
        options: Any = {"tokens": 12, "ends": ends, "context": 24, "beams": beams, "length_penalty": penalty}
        model = modules["model"].eval()
        ours = likeliest_continued(model, prompt, **options)
        assert torch.equal(F.pad(theirs, (0, 17 - theirs.shape[1]), value=ends[0]), ours)
        assert torch.equal(ours, likeliest_continued(model, prompt, **options, until_ended=True))
        assert torch.equal(ours, likeliest_continued(Forgetful(model), prompt, **options))
        greedy = continued(model, prompt, torch.zeros(8, 12), context=24, temperature=0.0)
        assert not torch.equal(ours, greedy)


def test_beams_without_an_end_find_the_likeliest_text_of_so_many_tokens(model: nn.Module) -> None:
    prompt = torch.randint(0, VOCABULARY, (1, 4), generator=torch.Generator().manual_seed(2))
    every = torch.cartesian_prod(torch.arange(VOCABULARY), torch.arange(VOCABULARY))
    with torch.no_grad():
        texts = torch.cat((prompt.expand(len(every), -1), every), dim=1)
        likely = model(texts[:, :-1])[:, -2:].log_softmax(-1).gather(2, every[:, :, None]).sum((1, 2))
    # as many beams as there are tokens keep all texts of one token
    options: Any = {"ends": (), "context": CONTEXT, "beams": VOCABULARY, "length_penalty": 1.0}
    found = likeliest_continued(model, prompt, tokens=2, **options)
    assert torch.equal(found[0, 4:], every[likely.argmax()])


def test_no_number_of_ends_takes_the_places_of_texts_that_go_on() -> None:
    """Each text's likeliest tokens are ends, as many as a search for one end would leave out of account."""

    class Constant(nn.Module):
        def forward(self, tokens_BT: Tensor) -> Tensor:
            return torch.tensor([9.0, 9.0, 9.0, 1.0, 0.9, 0.8, 0.0, 0.0]).expand(*tokens_BT.shape, -1)

    options: Any = {"tokens": 4, "ends": (0, 1, 2), "context": 9, "beams": 3}
    found = likeliest_continued(Constant(), torch.tensor([[7]]), length_penalty=9.0, **options)
    assert found[0, 1:4].tolist() == [3, 3, 3]  # worth more than any that has ended
    assert found[0, 4] in (0, 1, 2)


def test_beams_read_what_fits_into_the_context(model: nn.Module) -> None:
    prompt = torch.randint(0, VOCABULARY, (3, CONTEXT - 2), generator=torch.Generator().manual_seed(2))
    options: Any = {"tokens": 8, "ends": (1,), "context": CONTEXT, "beams": 3, "length_penalty": 1.0}
    assert torch.equal(
        likeliest_continued(model, prompt, **options),
        likeliest_continued(Forgetful(model), prompt, **options),
    )
