"""Each family learns something real in seconds."""

from __future__ import annotations

import math
import pydoc_data.topics
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import (
    AdversarialConfig,
    AutoencoderConfig,
    BertConfig,
    CausalLmConfig,
    ClassificationConfig,
    CnnConfig,
    FamilyConfig,
    ForecastingConfig,
    GanConfig,
    GptConfig,
    GruConfig,
    LstmConfig,
    MaskedLmConfig,
    MlpConfig,
    ObjectiveConfig,
    ReconstructionConfig,
)

Batches = Callable[[int], dict[str, Tensor]]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def _train(
    config: FamilyConfig,
    objective_config: ObjectiveConfig,
    batches: Batches,
    steps: int,
    learning_rate: float = 3e-3,
    momentum: float = 0.9,
):
    modules, objective = build_modules(config, objective_config), build_objective(config, objective_config)
    optimizers = {
        phase: torch.optim.AdamW(
            modules[objective.trains(phase)].parameters(), lr=learning_rate, betas=(momentum, 0.99)
        )
        for phase in objective.phases
    }
    for step in range(steps):
        batch = batches(step)
        batch["sample_seed"] = step * 1_000_003 + torch.arange(len(next(iter(batch.values()))))
        for phase in objective.phases:
            for name, module in modules.items():
                module.requires_grad_(name == objective.trains(phase))
            sums = objective.loss(phase, modules, batch)
            (sums.loss / sums.count).backward()
            optimizers[phase].step()
            optimizers[phase].zero_grad()
            objective.after_step(phase, modules)
    for module in modules.values():
        module.eval()
    return modules, objective


def _means(objective, modules, batch: dict[str, Tensor]) -> dict[str, float]:
    batch = {**batch, "sample_seed": torch.arange(len(next(iter(batch.values()))))}
    return {
        name: (total / count).item() for name, (total, count) in objective.evaluate(modules, batch).items()
    }


@pytest.fixture(scope="module")
def digits() -> dict[str, Tensor]:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    features = torch.tensor(data.data[order] / 16, dtype=torch.float32)
    return {
        "features": features,
        "image": features.reshape(-1, 1, 8, 8),
        "signal": features.reshape(-1, 8, 8),  # the rows as channels
        "label": torch.tensor(data.target[order]),
    }


def _picked(data: dict[str, Tensor], names: tuple[str, ...], samples: int = 64) -> Batches:
    def batch(step: int) -> dict[str, Tensor]:
        index = torch.randint(0, 1400, (samples,), generator=torch.Generator().manual_seed(step))
        return {name: data[name][index] for name in names}

    return batch


def _held_out(data: dict[str, Tensor], names: tuple[str, ...]) -> dict[str, Tensor]:
    return {name: data[name][1400:] for name in names}


@pytest.mark.parametrize(
    ("config", "name", "steps", "accuracy"),
    [
        (MlpConfig(size="small", in_features=64, outputs=10), "features", 300, 0.94),
        (CnnConfig(size="debug", in_channels=1, outputs=10), "image", 150, 0.95),
        (
            CnnConfig(size="debug", dimensions=1, in_channels=8, outputs=10, squeeze_excitation=True),
            "signal",
            200,
            0.90,
        ),
    ],
    ids=["mlp", "cnn", "cnn-1d"],
)
def test_digits_are_told_apart(digits, config: FamilyConfig, name: str, steps: int, accuracy: float):
    modules, objective = _train(config, ClassificationConfig(), _picked(digits, (name, "label")), steps)
    assert _means(objective, modules, _held_out(digits, (name, "label")))["accuracy"] >= accuracy


@pytest.fixture(scope="module")
def text() -> tuple[Tensor, int, float]:
    """Characters of an English corpus, how many there are, and the unigram entropy in nats."""
    corpus = "".join(pydoc_data.topics.topics.values())[:300_000]
    alphabet, tokens = np.unique(np.array(list(corpus)), return_inverse=True)
    share = np.bincount(tokens) / len(tokens)
    return torch.tensor(tokens) + 1, len(alphabet) + 1, float(-(share * np.log(share)).sum())


def _blocks(tokens: Tensor, length: int, samples: int = 16) -> Batches:
    def batch(step: int) -> dict[str, Tensor]:
        begins = torch.randint(0, 270_000 - length, (samples,), generator=torch.Generator().manual_seed(step))
        return {"tokens": tokens[begins[:, None] + torch.arange(length)]}

    return batch


@pytest.mark.parametrize(
    "make",
    [
        lambda v: GptConfig(size="debug", vocabulary=v, context=48, width=64),
        lambda v: LstmConfig(vocabulary=v, width=96, embedding_width=48),
        lambda v: GruConfig(vocabulary=v, width=96, embedding_width=48),
    ],
    ids=["gpt", "lstm", "gru"],
)
def test_text_is_predicted_better_than_by_frequency(text, make: Callable[[int], FamilyConfig]):
    tokens, vocabulary, entropy = text
    modules, objective = _train(make(vocabulary), CausalLmConfig(), _blocks(tokens, 49), 250)
    held_out = {"tokens": tokens[270_000 : 270_000 + 49 * 200].reshape(200, 49)}
    assert _means(objective, modules, held_out)["loss"] < entropy - 0.5


def test_hidden_tokens_are_predicted_better_than_by_frequency(text):
    tokens, vocabulary, entropy = text
    config = BertConfig(size="debug", vocabulary=vocabulary, context=48, width=64)
    modules, objective = _train(config, MaskedLmConfig(mask_token=0), _blocks(tokens, 48), 500)
    held_out = {"tokens": tokens[270_000 : 270_000 + 48 * 200].reshape(200, 48)}
    assert _means(objective, modules, held_out)["loss"] < entropy - 0.1


def _waves() -> Iterator[Tensor]:
    time = torch.arange(2000)
    for period, phase in ((24, 0.0), (36, 1.0)):
        yield torch.sin(2 * math.pi * time / period + phase) + 0.001 * time


def test_waves_are_forecast_better_than_by_repetition():
    series = torch.stack(list(_waves()), dim=1)
    config = LstmConfig(series=2, past=36, horizon=12, width=32)

    def windows(begins: Tensor) -> dict[str, Tensor]:
        whole = series[begins[:, None] + torch.arange(48)]
        return {"past": whole[:, :36], "future": whole[:, 36:]}

    def batch(step: int) -> dict[str, Tensor]:
        return windows(torch.randint(0, 1600, (32,), generator=torch.Generator().manual_seed(step)))

    modules, objective = _train(config, ForecastingConfig(), batch, 300, learning_rate=1e-2)
    held_out = windows(torch.arange(1700, 1950))
    naive = (held_out["future"] - held_out["past"][:, -1:]).square().mean()
    assert _means(objective, modules, held_out)["mse"] < 0.05 * naive


@pytest.mark.parametrize(
    ("config", "objective_config", "name"),
    [
        (
            AutoencoderConfig(size="small", latent=8, in_features=64),
            ReconstructionConfig(noise=0.1),
            "features",
        ),
        (
            AutoencoderConfig(
                size="debug", latent=8, layers="convolution", channels=1, image_size=8, variational=True
            ),
            ReconstructionConfig(beta=0.05),
            "image",
        ),
    ],
    ids=["denoising", "variational"],
)
def test_what_was_not_trained_on_scores_as_an_anomaly(digits, config, objective_config, name: str):
    normal = {key: tensor[digits["label"] != 0] for key, tensor in digits.items()}
    modules, objective = _train(config, objective_config, _picked(normal, (name,)), 300)
    held_out = normal[name][1400:]
    scores = objective.scores(modules, {name: torch.cat([held_out, digits[name][digits["label"] == 0]])})
    known, unknown = scores[: len(held_out)], scores[len(held_out) :]
    assert (unknown[:, None] > known[None]).float().mean() > 0.85  # the area under the ROC curve
    variance = normal[name][:1400].var(dim=0).mean()
    assert known.mean() < 0.7 * variance


@pytest.mark.parametrize(
    ("fields", "objective_config"),
    [
        ({}, AdversarialConfig(ema_decay=0.98)),
        ({}, AdversarialConfig(ema_decay=0.98, loss="wasserstein", gradient_penalty=10)),
        ({"spectral_norm": True}, AdversarialConfig(ema_decay=0.98, loss="hinge")),
    ],
    ids=["non-saturating", "wasserstein", "hinge"],
)
def test_made_digits_come_near_to_real_ones(digits, fields, objective_config: AdversarialConfig):
    config = GanConfig(size="debug", channels=1, image_size=8, **fields)
    images = {"image": digits["image"] * 2 - 1}
    untrained = build_modules(config, objective_config)["generator_ema"]
    modules, _ = _train(config, objective_config, _picked(images, ("image",)), 200, 2e-3, momentum=0.5)
    noise = torch.randn(300, config.noise)
    real = images["image"][1400:].flatten(1)
    distances = [
        torch.cdist(g(noise).flatten(1), real).min(dim=1).values.mean()
        for g in (modules["generator_ema"], untrained)
    ]
    assert distances[0] < 0.75 * distances[1]
    spread = modules["generator_ema"](noise).flatten(1).std(dim=0).mean()
    assert spread > 0.3 * real.std(dim=0).mean()  # not one and the same image
