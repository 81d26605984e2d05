"""The fakes that ship keep to the seam: what makes no sense is refused."""

from __future__ import annotations

import inspect

import pytest
import torch

from orchestrator import loop, strategies
from orchestrator.checkpoint import Checkpoints, committed
from orchestrator.models import build_modules, build_objective
from orchestrator.models.configs import MlpConfig, RegressionConfig
from orchestrator.strategies.base import Engine
from orchestrator.testing import RecordingEngine, RecordingSurroundings, small_plan, steps_of

LOSS = torch.tensor(1.0)


def in_micro_step(*inside, last=True):
    def attempt(engine):
        with engine.micro_step("model", last=last):
            for act in inside:
                act(engine)

    return attempt


def backward(engine):
    engine.backward("model", LOSS)


def step(engine):
    engine.step("model", 1.0, None)


def backward_in_autocast(engine):
    with engine.autocast():
        backward(engine)


@pytest.mark.parametrize(
    ("acts", "said"),
    [
        ([backward], "backward of model in the micro_step of None"),
        ([in_micro_step()], "micro_step of model without backward"),
        ([in_micro_step(backward, backward)], "second backward of model in one micro_step"),
        ([in_micro_step(backward_in_autocast)], "backward inside autocast"),
        ([in_micro_step(in_micro_step(backward))], "micro_step of model inside one of model"),
        ([in_micro_step(backward, step)], "step of model inside a micro_step"),
        ([step], "step of model before its last micro_step"),
        ([in_micro_step(backward, last=False), step], "step of model before its last micro_step"),
        ([in_micro_step(backward), in_micro_step(backward)], "micro_step of model after its last, before its step"),
        ([in_micro_step(backward), step, step], "step of model before its last micro_step"),
    ],
)  # fmt: skip
def test_a_call_out_of_order_is_refused(acts, said):
    engine = RecordingEngine()
    with pytest.raises(AssertionError, match=said):
        for act in acts:
            act(engine)


@pytest.mark.parametrize(
    ("fake", "protocol"), [(RecordingEngine, Engine), (RecordingSurroundings, loop.Surroundings)]
)
def test_the_fakes_have_the_seams_methods_and_signatures(fake, protocol):
    for name, method in vars(protocol).items():
        if not name.startswith("_") and callable(method):
            mine = inspect.signature(inspect.unwrap(getattr(fake, name)))
            assert list(mine.parameters) == list(inspect.signature(method).parameters), name


def test_a_call_that_the_seam_does_not_have_is_refused():
    for fake in (RecordingEngine(), RecordingSurroundings()):
        with pytest.raises(AttributeError):
            fake.backward_pass  # noqa: B018


def test_ranks_share_a_batch_in_micro_batches():
    plan = small_plan(2, training={"max_steps": 1, "global_batch_size": 6}, micro_batch_size=2)
    batch = {"tokens": torch.arange(12).reshape(6, 2), "weight": torch.tensor([1.0, 1, 1, 1, 1, 0])}
    (second,) = steps_of([batch], plan, rank=1)
    assert [micro["tokens"][:, 0].tolist() for micro in second.micros] == [[6, 8], [10]]
    assert (second.samples, second.padded, second.tokens) == (5, True, 12)
    with pytest.raises(
        ValueError, match=r"a global batch has 6 samples in this plan; this one has \{'x': 5\}"
    ):
        next(steps_of([{"x": torch.ones(5)}], plan))


def test_checkpoints_need_the_engine_that_is_saved(tmp_path):
    with pytest.raises(ValueError, match="give both checkpoints and engine, or neither"):
        RecordingSurroundings(checkpoints=Checkpoints(str(tmp_path), attempt=1, rank=0, world_size=1))


def test_a_model_learns_in_the_loop_and_is_saved_where_the_loop_says(tmp_path):
    """What docs/testing.md shows."""
    torch.manual_seed(0)
    config, kind = MlpConfig(size="debug", in_features=3, outputs=1), RegressionConfig()
    objective = build_objective(config, kind)
    plan = small_plan(
        training={"max_steps": 30, "global_batch_size": 16, "optimizer": {"learning_rate": 0.01}},
        checkpoint_every=20,
    )
    engine = strategies.prepare(plan, build_modules(config, kind), objective, torch.device("cpu"))
    checkpoints = Checkpoints(str(tmp_path), attempt=1, rank=0, world_size=1)
    around = RecordingSurroundings(checkpoints=checkpoints, engine=engine)
    x = torch.randn(16, 3)
    batch = {"features": x, "label": x.sum(1, keepdim=True)}
    loop.train(plan, engine, objective, steps_of([batch] * 30, plan), around, start_step=0)
    checkpoints.close()
    losses = around.metric("train/loss")
    assert losses[30] < losses[1] / 2
    assert around.steps("save") == [20, 30] and sorted(one.step for one in committed(str(tmp_path))) == [
        20,
        30,
    ]
