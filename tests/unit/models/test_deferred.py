"""Models built without memory: each first value is what the family's own code makes, whoever asks, in any order."""

from __future__ import annotations

import gc
import itertools
from functools import partial

import pytest
import torch
from family_cases import CASES, IDS
from torch import nn

from orchestrator.models import build_modules
from orchestrator.models.deferred import build_deferred


def deferred(case, seed=0):
    return build_deferred(partial(build_modules, case.config, case.objective), seed)


def tensors(modules):
    return {
        f"{name}/{path}": tensor
        for name, module in modules.items()
        for path, tensor in (*module.named_parameters(), *module.named_buffers())
    }


def values_of(case, seed=0, backwards=False):
    modules, values = deferred(case, seed)
    items = list(tensors(modules).items())
    return {name: values.of(tensor) for name, tensor in (items[::-1] if backwards else items)}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_every_tensor_has_the_shape_and_spread_that_the_constructors_give_it(case):
    torch.manual_seed(0)
    built, made = tensors(build_modules(case.config, case.objective)), values_of(case)
    assert built.keys() == made.keys()
    for name, tensor in built.items():
        value = made[name]
        assert (value.shape, value.dtype, value.stride()) == (tensor.shape, tensor.dtype, tensor.stride())
        assert not value.is_meta and not value.requires_grad
        if tensor.numel() > 1 and tensor.is_floating_point():
            if tensor.std() == 0:
                assert torch.equal(value, tensor), name
            elif tensor.numel() > 200:
                assert 0.8 < value.std() / tensor.std() < 1.25, name


@pytest.mark.parametrize("name", ["gpt", "lstm-lm", "cnn-images", "gan-hinge"])
def test_values_depend_on_seed_and_name_alone(name):
    case = CASES[IDS.index(name)]
    first, again, other = values_of(case), values_of(case, backwards=True), values_of(case, seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    random = [name for name, value in first.items() if not torch.equal(value, other[name])]
    assert random
    shapes = {}
    for name in random:  # equal shapes, different streams
        if "ema" not in name:
            shapes.setdefault(first[name].shape, []).append(first[name])
    for same in shapes.values():
        assert not any(torch.equal(one, other) for one, other in itertools.pairwise(same))


def test_asking_leaves_torchs_own_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    values_of(CASES[IDS.index("gpt")])
    assert torch.equal(torch.rand(3), expected)


def test_averages_begin_as_their_source():
    made = values_of(CASES[IDS.index("gan")])
    for name, value in made.items():
        if name.startswith("generator_ema/") and not name.endswith("averaged_steps"):
            assert torch.equal(value, made[name.replace("generator_ema", "generator")])


def test_tied_parameters_stay_one():
    model = deferred(CASES[IDS.index("bert-mlm")])[0]["model"]
    assert model.head.weight is model.encoder.token_embedding.weight


def test_nothing_takes_memory_before_it_is_asked_for():
    """A model of 4 GB, of which one layer is asked for."""
    before = sum(t.numel() for t in gc.get_objects() if type(t) is nn.Parameter and not t.is_meta)
    modules, values = build_deferred(
        lambda: {"model": nn.Sequential(*(nn.Linear(1024, 1024) for _ in range(1000)))}, 0
    )
    assert values.of(modules["model"][7].weight).shape == (1024, 1024)
    assert before == sum(t.numel() for t in gc.get_objects() if type(t) is nn.Parameter and not t.is_meta)


class Order(nn.Module):
    """Reads a tensor between two of its values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 2.0))
        self.register_buffer("square", self.weight.detach() ** 2)
        with torch.no_grad():
            self.weight.fill_(5.0)
            self.weight[1].fill_(7.0)
        self.register_buffer("sum", self.weight.detach().sum())


def test_what_was_read_in_between_is_what_it_was_then():
    modules, values = build_deferred(lambda: {"model": Order()}, 0)
    model = modules["model"]
    assert values.of(model.weight).tolist() == [5, 7, 5]
    assert values.of(model.square).tolist() == [4, 4, 4]
    assert values.of(model.sum).item() == 17


def test_a_weight_that_was_given_is_read_when_it_is_asked_for():
    modules, values = build_deferred(lambda: {"model": nn.Linear(2, 2)}, 0)
    read = []
    values.give(
        modules["model"].bias, lambda: read.append(1) or torch.tensor([1.0, 2.0], dtype=torch.bfloat16)
    )
    assert not read
    assert values.of(modules["model"].bias).tolist() == [1, 2]
    assert values.of(modules["model"].bias).dtype == torch.float32


class Scaled(nn.Module):
    """With numbers that are written in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(5.5))
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]) * self.scale)
        self.count = nn.Parameter(torch.tensor([3.0], requires_grad=False))


def test_numbers_that_are_written_in_the_code_are_kept():
    modules, values = build_deferred(lambda: {"model": Scaled()}, 0)
    model = modules["model"]
    assert model.scale.is_meta and model.weight.is_meta
    assert values.of(model.scale).item() == 5.5
    assert values.of(model.weight).tolist() == [5.5, 11]
    assert values.of(model.count).tolist() == [3]
    values.of(model.scale).fill_(0)
    assert values.of(model.scale).item() == 5.5
