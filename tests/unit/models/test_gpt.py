from __future__ import annotations

import pytest
import torch

from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import CausalLmConfig, GptConfig

VARIANTS = {
    "learned": GptConfig(vocabulary=23, context=16, layers=2, heads=2, width=16),
    "rotary": GptConfig(
        vocabulary=23, context=16, layers=2, heads=4, heads_per_key_value=2, width=16, positions="rotary", norm="rms",
        feedforward="swiglu", bias=False, tied_embeddings=False,
    ),
}  # fmt: skip


@pytest.fixture(params=VARIANTS)
def model(request: pytest.FixtureRequest):
    torch.manual_seed(3)
    made = build_modules(VARIANTS[request.param], CausalLmConfig())["model"].eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def test_a_token_is_not_predicted_from_what_comes_after_it(model):
    tokens = torch.randint(0, 23, (2, 16))
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 23
    one, other = model(tokens), model(changed)
    torch.testing.assert_close(one[:, :9], other[:, :9])
    assert (one[:, 9] - other[:, 9]).abs().max() > 1e-3


def test_packed_documents_are_as_if_read_alone(model):
    tokens = torch.randint(0, 23, (1, 16))
    document = torch.tensor([[0] * 5 + [1] * 8 + [2] * 3])
    packed = model(tokens, document)
    alone = torch.cat([model(part) for part in tokens.split([5, 8, 3], dim=1)], dim=1)
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)


def test_one_document_is_the_plain_case(model):
    tokens = torch.randint(0, 23, (2, 16))
    torch.testing.assert_close(model(tokens, torch.zeros_like(tokens)), model(tokens), rtol=1e-5, atol=1e-5)


def test_no_token_is_predicted_from_another_document():
    config, objective_config = VARIANTS["learned"], CausalLmConfig(packed=True)
    modules, objective = build_modules(config, objective_config), build_objective(config, objective_config)
    batch = {
        "tokens": torch.randint(0, 23, (1, 7)),
        "document": torch.tensor([[0, 0, 0, 1, 1, 1, 1]]),
        "sample_seed": torch.zeros(1, dtype=torch.int64),
    }
    parts = [
        {name: tensor[:, a:b] if name != "sample_seed" else tensor for name, tensor in batch.items()}
        for a, b in ((0, 3), (3, 7))
    ]
    whole = objective.loss("model", modules, batch)
    assert whole.count == 5
    apart = [objective.loss("model", modules, part) for part in parts]
    torch.testing.assert_close(whole.loss, sum(sums.loss for sums in apart))


def test_rotary_attention_depends_on_distance_alone():
    from orchestrator.models.gpt import rotated, rotations

    cos, sin = rotations(32, 8, 10000.0)
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(i: int, j: int) -> torch.Tensor:
        return (rotated(q, cos[i : i + 1], sin[i : i + 1]) * rotated(k, cos[j : j + 1], sin[j : j + 1])).sum()

    torch.testing.assert_close(score(3, 1), score(30, 28), rtol=1e-4, atol=1e-5)
    assert (score(3, 1) - score(5, 1)).abs() > 1e-4


def test_the_residual_stream_keeps_its_scale_with_depth():
    torch.manual_seed(0)
    tokens = torch.randint(0, 23, (4, 16))
    spreads = []
    for layers in (2, 24):
        config = GptConfig(vocabulary=23, context=16, layers=layers, heads=2, width=64)
        spreads.append(build_modules(config, CausalLmConfig())["model"](tokens).std().item())
    assert spreads[1] < 1.5 * spreads[0]


def test_the_first_weights_deviate_as_the_config_says():
    config = GptConfig(size="nano", vocabulary=64)
    assert config.initial_deviation == 0.05
    layer = build_modules(config, CausalLmConfig())["model"].layers[0]
    assert layer.feedforward.expand.weight.std().item() == pytest.approx(0.05, rel=0.05)
    assert layer.feedforward.project.weight.std().item() == pytest.approx(0.05 / 8**0.5, rel=0.05)
