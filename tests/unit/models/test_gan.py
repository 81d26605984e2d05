from __future__ import annotations

import pytest
import torch
from torch import nn

from orchestrator.models import build_modules, build_objective
from orchestrator.models.averages import as_average, move_average
from orchestrator.models.configs import AdversarialConfig, GanConfig
from orchestrator.models.gan import Discriminator, Generator, iterate_spectral_norms
from orchestrator.models.images import halvings


@pytest.mark.parametrize(("image_size", "count"), [(8, 1), (10, 1), (28, 2), (32, 3), (64, 4), (9, 0)])
def test_images_are_halved_as_far_as_four(image_size: int, count: int):
    assert halvings(image_size) == count


@pytest.mark.parametrize("layers", ["convolution", "mlp"])
@pytest.mark.parametrize("image_size", [8, 28])
def test_made_images_have_the_real_ones_shape(layers: str, image_size: int):
    config = GanConfig(size="debug", layers=layers, channels=3, image_size=image_size)
    images = Generator(config)(torch.randn(2, config.noise))
    assert images.shape == (2, 3, image_size, image_size)
    assert images.abs().max() <= 1
    assert Discriminator(config)(images).shape == (2,)


def test_an_image_that_cannot_be_halved_is_refused():
    with pytest.raises(ValueError, match=r"image_size 27 can't be halved .* resize the images"):
        GanConfig(channels=1, image_size=27)


def test_spectral_norms_are_one_and_follow_the_weights():
    torch.manual_seed(0)
    config = GanConfig(size="debug", spectral_norm=True, channels=1, image_size=8)
    discriminator = Discriminator(config)

    def largest() -> list[float]:
        layers = [m for m in discriminator.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        return [torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() for layer in layers]

    assert largest() == pytest.approx([1.0] * 3, abs=0.05)
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    for _ in range(30):
        iterate_spectral_norms(discriminator)
    assert largest() == pytest.approx([1.0] * 3, abs=0.05)


def test_spectral_norms_are_measured_in_float32_whatever_the_precision_of_the_rest():
    torch.manual_seed(0)
    config = GanConfig(size="debug", layers="mlp", spectral_norm=True, channels=1, image_size=8)
    discriminator, images = Discriminator(config), torch.randn(4, 1, 8, 8)
    weight = discriminator.layers[1].weight
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(discriminator.layers[1].weight, weight)
        discriminator(images).float().sum().backward()
    half = Discriminator(config).to(torch.bfloat16)  # as a sharded strategy hands its parameters over
    for module in half.modules():
        for buffer in module._buffers:
            module._buffers[buffer] = module._buffers[buffer].float()
    assert half(images.bfloat16()).dtype == torch.bfloat16


def test_the_penalty_is_the_slopes_distance_from_one():
    config = GanConfig(size="debug", layers="mlp", channels=1, image_size=8)
    objective = build_objective(config, AdversarialConfig(loss="wasserstein", gradient_penalty=10))

    class Slope(nn.Module):
        """Scores with a gradient of norm 3 everywhere."""

        def __init__(self) -> None:
            super().__init__()
            self.direction = nn.Parameter(torch.full((64,), 3 / 8.0))

        def forward(self, images):
            return images.flatten(1) @ self.direction

    modules = {**build_modules(config, AdversarialConfig()), "discriminator": Slope()}
    batch = {"image": torch.randn(4, 1, 8, 8), "sample_seed": torch.arange(4)}
    sums = objective.loss("discriminator", modules, batch)
    penalty, count = sums.metrics["gradient_penalty"]
    assert penalty / count == pytest.approx((3 - 1) ** 2, rel=1e-4)
    real, made = (sums.metrics[name][0] for name in ("score_real", "score_made"))
    torch.testing.assert_close(sums.loss, made - real + 10 * penalty, rtol=1e-4, atol=1e-4)


def test_the_generators_phase_leaves_no_gradient_in_a_frozen_discriminator():
    config = GanConfig(size="debug", channels=1, image_size=8)
    modules, objective = (
        build_modules(config, AdversarialConfig()),
        build_objective(config, AdversarialConfig()),
    )
    modules["discriminator"].requires_grad_(False)
    batch = {"image": torch.randn(4, 1, 8, 8), "sample_seed": torch.arange(4)}
    objective.loss("generator", modules, batch).loss.backward()
    assert all(parameter.grad is None for parameter in modules["discriminator"].parameters())
    assert all(parameter.grad is not None for parameter in modules["generator"].parameters())


def test_an_average_follows_its_source():
    source = nn.Linear(2, 2)
    average = as_average(nn.Linear(2, 2), source, of="source")
    assert average.average_of == "source"
    expected, steps = source.weight.detach().clone(), 0
    for _ in range(40):
        with torch.no_grad():
            source.weight.add_(torch.randn(2, 2))
        decay = min(0.7, (1 + steps) / (10 + steps))
        expected, steps = decay * expected + (1 - decay) * source.weight.detach(), steps + 1
        move_average(average, source, 0.7)
    torch.testing.assert_close(average.weight.detach(), expected)
    assert not average.weight.requires_grad
    assert average.averaged_steps == 40


def test_only_the_generators_step_moves_the_average():
    config = GanConfig(size="debug", channels=1, image_size=8)
    modules, objective = (
        build_modules(config, AdversarialConfig()),
        build_objective(config, AdversarialConfig()),
    )
    objective.after_step("discriminator", modules)
    assert modules["generator_ema"].averaged_steps == 0
    objective.after_step("generator", modules)
    assert modules["generator_ema"].averaged_steps == 1


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_a_bounded_discriminator_computes_in_16_bits(weights):
    """By autocast over its weights, and with weights that are gathered in 16 bits."""
    config = GanConfig(size="debug", layers="mlp", spectral_norm=True, channels=1, image_size=8)
    discriminator = build_modules(config, AdversarialConfig(loss="hinge"))["discriminator"]
    images = torch.rand(4, 1, 8, 8)
    expected = discriminator(images)
    with torch.autocast("cpu", torch.bfloat16):
        scores = discriminator.to(weights)(images)
    scores.float().sum().backward()
    torch.testing.assert_close(scores.float(), expected, rtol=0.1, atol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in discriminator.parameters())
