"""Logits that are never whole: the same loss, metrics and gradients, in fewer bytes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from family_cases import CASES, IDS, Case, random_batch
from torch import Tensor

from orchestrator.errors import SpecError
from orchestrator.fitting.live import LiveTensors
from orchestrator.models import build_modules, build_objective
from orchestrator.models.base import Modules, Objective
from orchestrator.models.configs import CausalLmConfig, CustomConfig, GptConfig

HEADS = ["rnn-lm", "lstm-lm", "gru-lm", "gpt", "gpt-packed", "gpt-llama", "bert-mlm", "bert-words"]
"""With and without bias, tied and not, samples of all lengths."""
SAMPLES = 5


def _chunked(case: Case, tokens: int) -> Case:
    return replace(case, objective=case.objective.model_copy(update={"chunk_tokens": tokens}))


def _made(case: Case) -> tuple[Modules, Objective]:
    torch.manual_seed(0)
    modules = build_modules(case.config, case.objective)
    for module in modules.values():
        module.eval()
    return modules, build_objective(case.config, case.objective)


def _batch(case: Case, objective: Objective) -> dict[str, Tensor]:
    batch = random_batch(case, dict(objective.inputs()), SAMPLES)
    return {**batch, "weight": torch.tensor([1.0] * (SAMPLES - 1) + [0.0])}


def _trained(case: Case, precision: torch.dtype) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Loss and metrics of a step, and of an evaluation; gradients by name."""
    modules, objective = _made(case)
    batch = _batch(case, objective)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
        sums = objective.loss("model", modules, batch)
        evaluated = objective.evaluate(modules, batch)
    (sums.loss * 3).backward()
    told = {"loss": sums.loss.detach(), **{name: value for name, (value, _) in sums.metrics.items()}}
    told |= {f"evaluated {name}": value for name, (value, _) in evaluated.items()}
    return told, {name: p.grad for name, p in modules["model"].named_parameters() if p.grad is not None}


@pytest.mark.parametrize("tokens", [1, 7, 1000])
@pytest.mark.parametrize("name", HEADS)
def test_chunks_change_no_number(name: str, tokens: int) -> None:
    case = CASES[IDS.index(name)]
    expected, gradients = _trained(case, torch.float32)
    told, in_chunks = _trained(_chunked(case, tokens), torch.float32)
    assert told.keys() == expected.keys() and in_chunks.keys() == gradients.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            told[name], value, rtol=1e-6, atol=0, msg=lambda m, name=name: f"{name}: {m}"
        )
    for name, gradient in gradients.items():
        largest = gradient.abs().max().item()
        torch.testing.assert_close(
            in_chunks[name],
            gradient,
            rtol=0,
            atol=1e-6 * max(largest, 1e-3),
            msg=lambda m, name=name: f"{name}: {m}",
        )


@pytest.mark.parametrize("name", ["gpt", "bert-mlm"])
def test_chunks_compute_in_the_format_of_autocast(name: str) -> None:
    case = CASES[IDS.index(name)]
    expected, gradients = _trained(case, torch.bfloat16)
    told, in_chunks = _trained(_chunked(case, 7), torch.bfloat16)
    assert told["loss"].dtype == torch.float32
    torch.testing.assert_close(told["loss"], expected["loss"], rtol=1e-5, atol=0)
    for name, gradient in gradients.items():
        assert (in_chunks[name] - gradient).norm() <= 0.01 * gradient.norm() + 1e-6, name


def test_a_frozen_head_gets_no_gradient() -> None:
    modules, objective = _made(_chunked(CASES[IDS.index("gpt-llama")], 7))
    head = modules["model"].get_submodule("head").requires_grad_(False)
    objective.loss("model", modules, _batch(CASES[IDS.index("gpt-llama")], objective)).loss.backward()
    assert head.weight.grad is None
    assert modules["model"].get_parameter("token_embedding.weight").grad is not None


def _peak(objective_config: CausalLmConfig) -> int:
    """Most bytes of a step of a model whose vocabulary is large, above those of its parameters."""
    config = GptConfig(layers=1, heads=2, width=8, context=64, vocabulary=4096)
    with LiveTensors(vocabulary=config.vocabulary) as live:
        modules = build_modules(config, objective_config)
        objective = build_objective(config, objective_config)
        batch = {"tokens": torch.zeros(16, 65, dtype=torch.int64)}
        before = live.now
        live.forget_peak()
        objective.loss("model", modules, batch).loss.backward()
    return live.peak - before


def test_the_peak_is_a_chunks() -> None:
    logits = 16 * 64 * 4096 * 4
    assert _peak(CausalLmConfig()) > 2 * logits
    assert _peak(CausalLmConfig(chunk_tokens=64)) < 4 * logits * 64 // 1024 + 10**6


def test_a_model_whose_head_is_not_ours_refuses() -> None:
    config = CustomConfig(factory="my_models:build", vocabulary=19, context=12)
    with pytest.raises(
        SpecError, match=r"objective\.chunk_tokens: family custom makes its logits by code of its own"
    ):
        build_objective(config, CausalLmConfig(chunk_tokens=64))
