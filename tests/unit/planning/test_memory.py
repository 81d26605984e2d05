"""Bytes on one worker, in units of one byte a parameter: a thousand parameters, four workers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.memory import estimate_memory
from orchestrator.spec.job import JobSpec

CPU = {"optimizer": "cpu", "parameters": "cpu"}


def memory(strategy, workers=4, trainable=1000, micro=1, **training):
    job = JobSpec.model_validate(
        {
            "name": "job",
            "model": {"family": "mlp"},
            "data": {"train": {"kind": "builtin", "name": "iris"}},
            "training": {"max_steps": 1, **training},
            "strategy": strategy,
        }
    )
    return estimate_memory(
        job,
        world_size=workers,
        micro_batch_size=micro,
        parameters=1000,
        trainable=trainable,
        activation_elements=10,
    )


@pytest.mark.parametrize(
    ("strategy", "parameters", "gradients", "optimizer", "offloaded"),
    [
        ({"kind": "ddp"}, 4, 4, 8, 0),
        ({"kind": "fsdp"}, 1, 1, 2, 0),
        ({"kind": "fsdp", "offload": True}, 1, 1, 2, 4),
        ({"kind": "fsdp", "shard_group": 2}, 2, 2, 4, 0),
        ({"kind": "zero", "stage": 3, "shard_group": 2}, 4, 1, 2, 0),
        ({"kind": "zero", "stage": 3, "shard_group": 4}, 2, 1, 2, 0),
        ({"kind": "zero", "stage": 1}, 5, 4, 2, 0),
        ({"kind": "zero", "stage": 2}, 5, 1, 2, 0),
        ({"kind": "zero", "stage": 3}, 2, 1, 2, 0),
        ({"kind": "zero", "stage": 2, "offload": {"optimizer": "cpu"}}, 5, 1, 2, 3),
        ({"kind": "zero", "stage": 3, "offload": CPU}, 2, 1, 2, 4),
    ],
)
def test_in_fp32(strategy, parameters, gradients, optimizer, offloaded):
    held = memory(strategy)
    assert [held.parameters, held.gradients, held.optimizer, held.offloaded] == [
        1000 * part for part in (parameters, gradients, optimizer, offloaded)
    ]


@pytest.mark.parametrize(
    ("strategy", "parameters", "gradients"),
    [
        ({"kind": "ddp"}, 4, 4),
        ({"kind": "zero", "stage": 1}, 3, 2),
        ({"kind": "zero", "stage": 2}, 3, 0.5),
        ({"kind": "zero", "stage": 3}, 1.5, 0.5),
    ],
)
def test_in_bf16_zero_computes_with_copies_of_half_the_size(strategy, parameters, gradients):
    held = memory(strategy, precision="bf16")
    assert (held.parameters, held.gradients) == (1000 * parameters, 1000 * gradients)


@pytest.mark.parametrize(
    ("optimizer", "moments"),
    [
        ({"kind": "adamw"}, 2),
        ({"kind": "lion"}, 1),
        ({"kind": "adafactor"}, 1),
        ({"kind": "sgd"}, 1),
        ({"kind": "sgd", "momentum": 0}, 0),
    ],
)
def test_an_optimizer_keeps_its_moments(optimizer, moments):
    assert memory({"kind": "ddp"}, optimizer=optimizer).optimizer == 4000 * moments


def test_what_is_frozen_has_no_gradients_and_moments():
    held = memory({"kind": "ddp"}, trainable=100)
    assert (held.parameters, held.gradients, held.optimizer) == (4000, 400, 800)


@pytest.mark.parametrize(
    ("training", "activations"),
    [
        ({}, 120),
        ({"precision": "bf16"}, 60),
        ({"recomputation": "blocks"}, 30),
        ({"recomputation": "selective"}, 60),
    ],
)
def test_activations_are_of_one_micro_batch(training, activations):
    assert memory({"kind": "ddp"}, micro=3, **training).activations == activations


@given(
    st.sampled_from(
        [{"kind": "ddp"}, {"kind": "fsdp"}, *({"kind": "zero", "stage": stage} for stage in (1, 2, 3))]
    ),
    st.integers(1, 64),
)
def test_more_workers_never_hold_more_each(strategy, workers):
    assert memory(strategy, workers + 1).total <= memory(strategy, workers).total


@pytest.mark.parametrize(
    ("strategy", "averages", "offloaded"),
    [
        ({"kind": "ddp"}, 4000, 0),
        ({"kind": "fsdp", "offload": True}, 1000, 5000),
        ({"kind": "zero", "stage": 1}, 1000, 0),
        ({"kind": "zero", "stage": 3, "offload": CPU}, 1000, 5000),
    ],
)
def test_averages_are_fp32_and_divided_as_masters_are(strategy, averages, offloaded):
    without, held = memory(strategy), memory(strategy, ema={})
    assert (held.averages, held.total - without.total) == (averages, averages)
    assert held.offloaded == offloaded
    assert "averages" in held.by_part and "averages" not in without.by_part
