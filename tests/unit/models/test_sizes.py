"""Counts from the config equal what is built and what the textbooks' formulas say."""

from __future__ import annotations

import pytest
import torch
from family_cases import CASES, IDS, Case, random_batch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import (
    BertConfig,
    CausalLmConfig,
    ClassificationConfig,
    CnnConfig,
    ForecastingConfig,
    GptConfig,
    LstmConfig,
    MaskedLmConfig,
    MlpConfig,
)
from orchestrator.models.sizes import count


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_parameters_equal_the_built_model(case: Case):
    modules = build_modules(case.config, case.objective)
    counts = count(case.config, case.objective)
    assert counts.parameters == sum(p.numel() for module in modules.values() for p in module.parameters())
    assert counts.parameters == sum(size for _, size in counts.parameter_sizes)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.config.family in ("mlp", "cnn", "gan", "autoencoder")]
)
def test_operations_equal_a_real_step(case: Case):
    modules = build_modules(case.config, case.objective)
    objective = build_objective(case.config, case.objective)
    specs = objective.inputs()
    size = {
        "image": getattr(case.config, "image_size", None),
        "signal": getattr(case.config, "signal_length", None),
    }
    batch = random_batch(case, specs, 1)
    for name in {"image", "signal"} & set(batch):
        batch[name] = torch.randn(1, batch[name].shape[1], *[size[name]] * (batch[name].dim() - 2))
    real = 0
    for phase in objective.phases:
        for name, module in modules.items():
            module.requires_grad_(name == objective.trains(phase))
        with FlopCounterMode(display=False) as counter:
            objective.loss(phase, modules, batch).loss.backward()
        real += counter.get_total_flops()
    assert count(case.config, case.objective).flops_per_sample == real


@pytest.mark.parametrize("size", ["debug", "nano", "124m"])
def test_a_decoder_costs_six_operations_a_weight_and_token(size: str):
    config = GptConfig(size=size, vocabulary=1000)
    width, layers, tokens = config.width, config.layers, config.context
    weights = layers * 12 * width**2 + 1000 * width
    attention = 12 * layers * tokens**2 * width
    assert count(config, CausalLmConfig()).flops_per_sample == 6 * weights * tokens + attention


def test_grouped_queries_and_gates_are_counted_as_they_are_built():
    config = GptConfig(
        vocabulary=1000, context=32, layers=3, heads=8, heads_per_key_value=4, width=64, positions="rotary",
        norm="rms", feedforward="swiglu", feedforward_ratio=2, bias=False, tied_embeddings=False,
    )  # fmt: skip
    weights = 3 * (64 * (64 + 2 * 16) + 64 * 64 + 3 * 64 * 128) + 1000 * 64
    assert count(config, CausalLmConfig()).flops_per_sample == 6 * weights * 32 + 12 * 3 * 32**2 * 64


def test_a_recurrence_is_counted_over_all_its_steps():
    config = LstmConfig(series=3, past=96, horizon=24, width=16)
    gates, head = 4 * 16, 24 * 3
    forward = 2 * (96 * gates * 16 + 96 * gates * 3 + 16 * head)
    backward = 2 * (96 * gates * 16 + 95 * gates * 16) + 2 * 96 * gates * 3 + 4 * 16 * head
    assert abs(count(config, ForecastingConfig()).flops_per_sample - forward - backward) <= 0.02 * forward


def test_counts_of_many_steps_are_those_of_few():
    steps = [
        count(LstmConfig(vocabulary=9, context=n, width=8, layers=2), CausalLmConfig()) for n in (7, 16, 30)
    ]
    flops = [counts.flops_per_sample for counts in steps]
    kept = [counts.activation_elements_per_sample for counts in steps]
    assert (flops[1] - flops[0]) * 14 == (flops[2] - flops[1]) * 9
    assert (kept[1] - kept[0]) * 14 == (kept[2] - kept[1]) * 9


def test_kept_activations_of_an_mlp_are_its_layers_inputs():
    counts = count(MlpConfig(in_features=5, outputs=3, width=10, depth=2), ClassificationConfig())
    inputs, log_probabilities = 5 + 10 + 10, 3
    # relu keeps its output, which is the next layer's input: counted once; a label and a weight come on top
    assert (
        inputs + log_probabilities <= counts.activation_elements_per_sample <= inputs + log_probabilities + 4
    )


def test_attention_keeps_no_matrix_of_scores():
    kept = [
        count(
            GptConfig(size="debug", vocabulary=9, context=n), CausalLmConfig()
        ).activation_elements_per_sample
        for n in (256, 512)
    ]
    assert kept[1] / kept[0] == pytest.approx(2, rel=0.01)


def test_operations_of_an_unknown_image_size_are_not_guessed():
    assert (
        count(CnnConfig(size="debug", in_channels=1, outputs=2), ClassificationConfig()).flops_per_sample == 0
    )


@pytest.mark.parametrize(
    ("config", "objective", "parameters"),
    [
        (CnnConfig(size="resnet18", in_channels=3, outputs=1000), ClassificationConfig(), 11_689_512),
        (CnnConfig(size="resnet34", in_channels=3, outputs=1000), ClassificationConfig(), 21_797_672),
        (CnnConfig(size="resnet50", in_channels=3, outputs=1000), ClassificationConfig(), 25_557_032),
        (GptConfig(size="124m", vocabulary=50257), CausalLmConfig(), 124_439_808),
        (GptConfig(size="350m", vocabulary=50257), CausalLmConfig(), 354_823_168),
        (GptConfig(size="774m", vocabulary=50257), CausalLmConfig(), 774_030_080),
        (GptConfig(size="1.5b", vocabulary=50257), CausalLmConfig(), 1_557_611_200),
        (GptConfig(size="7b", vocabulary=32000), CausalLmConfig(), 6_738_415_616),
        (BertConfig(size="base", vocabulary=30522), MaskedLmConfig(mask_token=103), 109_514_298),
    ],
    ids=lambda value: getattr(value, "size", ""),
)  # fmt: skip
def test_the_sizes_people_know_are_the_published_ones(config, objective, parameters: int):
    assert count(config, objective).parameters == parameters


def test_counting_leaves_torch_as_it_was():
    before = torch.backends.mkldnn.enabled
    count(MlpConfig(in_features=2, outputs=2), ClassificationConfig())
    assert torch.backends.mkldnn.enabled == before
    assert type(nn.Linear(2, 2).weight.data) is torch.Tensor
