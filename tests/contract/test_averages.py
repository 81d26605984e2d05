"""Moving averages of weights: those of a plain loop, the same under every strategy, saved, loaded and evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import engine_toys as toys
import pytest
import torch
from ranks_fixture import Pools, pools
from test_engines import MAIN, STRATEGIES, assert_same

from orchestrator.checkpoint import newest_good
from orchestrator.errors import CheckpointError
from orchestrator.models.averages import share_of_step
from orchestrator.planning.schedule import learning_rate_factor
from orchestrator.strategies.optimizers import build_optimizer, parameter_groups, set_learning_rate
from orchestrator.testing import RecordingSurroundings, steps_of

__all__ = ["pools"]

EMA = {"ema": {"decay": 0.7}}
"""Reached after 20 updates."""
STEPS = 4


def plan_of(strategy: str, workers: int = 2, **training: Any) -> Any:
    return toys.toy_plan(workers, STRATEGIES[strategy], **{**EMA, **training})


def averages(state: dict[tuple[str, str], torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: values for (kind, name), values in state.items() if kind == "ema"}


@pytest.fixture(scope="module")
def alone() -> toys.Run:
    return toys.train(plan_of("ddp", 1), "classify", steps=40)


def plain_averages(plan: Any, steps: int) -> dict[str, torch.Tensor]:
    """What a loop of torch alone has after so many steps."""
    (model,) = toys.toy_modules("classify").values()
    training = plan.job.training
    spec = training.optimizer
    optimizer = build_optimizer(parameter_groups(model.named_parameters(), spec), spec, torch.device("cpu"))
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    means = {name: one.detach().clone() for name, one in trained.items()}
    for step in range(steps):
        batch = toys.global_batch(step)
        loss = torch.nn.functional.cross_entropy(model(batch["x"]), batch["y"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), training.clip_grad_norm)
        factor = learning_rate_factor(training.schedule, step + 1, plan.total_steps)
        set_learning_rate(optimizer, spec.learning_rate * factor)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(training.ema.decay, (1 + step) / (10 + step))
        for name, one in trained.items():
            means[name] = decay * means[name] + (1 - decay) * one.detach()
    return {f"model/{name}": mean.reshape(-1) for name, mean in means.items()}


def test_the_decay_grows_to_its_own() -> None:
    shares = [1 - float(share_of_step(torch.tensor(float(n)), 0.7)) for n in (0, 10, 19, 20, 21, 500)]
    assert shares == pytest.approx([0.1, 0.55, 20 / 29, 0.7, 0.7, 0.7])


def test_they_are_those_of_a_plain_loop(alone: toys.Run) -> None:
    got, want = averages(toys.assembled([alone])), plain_averages(plan_of("ddp", 1), 40)
    assert got.keys() == want.keys() and "model/frozen" not in got
    for name, mean in want.items():
        torch.testing.assert_close(got[name], mean, rtol=1e-5, atol=1e-6, msg=name)
        assert not torch.allclose(mean, toys.assembled([alone])["parameter", name], atol=1e-4)


@pytest.mark.parametrize("strategy", MAIN)
def test_two_workers_have_those_of_one(pools: Pools, alone: toys.Run, strategy: str) -> None:
    assert_same(pools.run(2, toys.train_steps, plan_of(strategy), "classify", 40), alone)


@pytest.mark.parametrize("strategy", ["fsdp", "zero2-offload", "zero3-offload"])
def test_so_they_have_in_bf16_and_offloaded(pools: Pools, alone: toys.Run, strategy: str) -> None:
    """fp32 averages of fp32 masters: they move by less than bf16 can add."""
    optimizer = {"learning_rate": 1e-4, "weight_decay": 0.0}
    runs = pools.run(2, toys.train, plan_of(strategy, precision="bf16", optimizer=optimizer))
    got = toys.assembled(runs)
    for name, mean in averages(got).items():
        assert mean.dtype == torch.float32
        distance = (mean - got["parameter", name]).abs().max()
        assert 0 < distance < 1e-3, name


@pytest.mark.parametrize("strategy", MAIN)
def test_two_phases_each_have_theirs(pools: Pools, strategy: str) -> None:
    expected = toys.train(plan_of("ddp", 1), "wgan")
    runs = pools.run(2, toys.train, plan_of(strategy), "wgan")
    assert_same(runs, expected)
    assert {name.partition("/")[0] for name in averages(toys.assembled(runs))} == {"model", "critic"}


READS = [("ddp", "zero3"), ("fsdp", "zero1"), ("zero1", "fsdp"), ("zero2", "zero2"), ("zero3", "ddp")]
EVERY = [(writer, reader) for writer in MAIN for reader in MAIN if (writer, reader) not in READS]


@pytest.mark.parametrize(
    ("writer", "reader"), [*READS, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in EVERY)]
)
def test_any_strategy_reads_them(pools: Pools, tmp_path: Path, writer: str, reader: str) -> None:
    """Another number of workers too, and a buffer's average with them."""
    saved = pools.run(2, toys.train_and_save, plan_of(writer), "leveled", STEPS, str(tmp_path))
    found = newest_good(str(tmp_path))
    assert found is not None
    back = pools.run(3, toys.resume, plan_of(reader, 3), "leveled", found.path, STEPS, 0)
    got, want = toys.assembled(back), toys.assembled(saved)
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], values) for key, values in want.items())
    means = averages(want)
    assert 0 < means["model/level"][1] < want["buffer", "model/level"][1]
    assert means["model/closed"].tolist() == [-torch.inf] * 2


@pytest.mark.parametrize("strategy", MAIN)
def test_resumed_they_go_on_as_if_never_stopped(pools: Pools, tmp_path: Path, strategy: str) -> None:
    pools.run(2, toys.train_and_save, plan_of(strategy), "leveled", STEPS, str(tmp_path))
    found = newest_good(str(tmp_path))
    assert found is not None
    resumed = pools.run(2, toys.resume, plan_of(strategy), "leveled", found.path, STEPS, STEPS)
    straight = pools.run(2, toys.train_steps, plan_of(strategy), "leveled", 2 * STEPS)
    got, want = toys.assembled(resumed), toys.assembled(straight)
    assert all(torch.equal(got[key], values) for key, values in want.items())


@pytest.mark.parametrize("strategy", MAIN)
def test_evaluating_with_them_changes_nothing_and_is_what_they_give(pools: Pools, strategy: str) -> None:
    straight = pools.run(2, toys.train_steps, plan_of(strategy), "leveled", STEPS)
    seen = pools.run(2, evaluated_each_step, plan_of(strategy).model_copy(update={"evaluate_every": 1}))
    got, want = (toys.assembled(runs) for runs in ([run for run, _ in seen], straight))
    assert all(torch.equal(got[key], values) for key, values in want.items())
    live, averaged = seen[0][1]
    assert live == pytest.approx(loss_with(want, "parameter"), rel=1e-5)
    assert averaged == pytest.approx(loss_with(want, "ema"), rel=1e-5)
    assert live != pytest.approx(averaged, rel=1e-4)


def evaluated_each_step(plan: Any) -> tuple[toys.Run, list[float]]:
    """A run, and what its last evaluation came to with the weights and with their averages."""
    objective = toys.toy_objective("leveled")
    engine = toys.strategies.prepare(plan, toys.toy_modules("leveled"), objective, torch.device("cpu"))
    batch = {name: half[toys.dist.get_rank() :: 2] for name, half in toys.global_batch(0).items()}
    around = RecordingSurroundings(stop_at=STEPS, evaluation=[batch])
    steps = steps_of(map(toys.global_batch, range(STEPS)), plan, device="cpu")
    toys.loop.train(plan, engine, objective, steps, around, 0)
    run = toys.run_of(engine, around)
    engine.close()
    return run, [around.metric(name)[STEPS] for name in ("val/loss", "val/ema/loss")]


def loss_with(state: dict[tuple[str, str], torch.Tensor], kind: str) -> float:
    """Of a plain model with a run's weights or with their averages."""
    (model,) = toys.toy_modules("leveled").values()
    plain = model.state_dict()
    for name, tensor in plain.items():
        found = [
            state[key] for key in ((kind, f"model/{name}"), ("parameter", f"model/{name}")) if key in state
        ]
        if not found:
            found = [state["buffer", f"model/{name}"]]
        plain[name] = found[0].reshape(tensor.shape)
    model.load_state_dict(plain)
    batch = toys.global_batch(0)
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model.eval()(batch["x"]), batch["y"]))


@pytest.mark.parametrize("strategy", MAIN)
def test_a_checkpoint_without_them_is_refused_and_one_with_them(
    pools: Pools, tmp_path: Path, strategy: str
) -> None:
    for name, here, there in (("with", EMA, {"ema": None}), ("without", {"ema": None}, EMA)):
        plan = plan_of(strategy, **here)
        pools.run(2, toys.train_and_save, plan, "classify", 1, str(tmp_path / name))
        found = newest_good(str(tmp_path / name))
        assert found is not None
        with pytest.raises(CheckpointError, match=r"resume with training\.ema as it was"):
            pools.run(2, toys.resume, plan_of(strategy, **there), "classify", found.path, 1, 0)


@pytest.mark.parametrize("strategy", MAIN)
def test_a_gradient_that_is_no_number_moves_none(pools: Pools, strategy: str) -> None:
    answers = pools.run(2, toys.step_on_nan, plan_of(strategy))
    for _, _, run in answers:
        assert run.scalars["updates/model"] == 0
    before, after = (toys.assembled([answer[which] for answer in answers]) for which in (1, 2))
    assert all(torch.equal(before[key], after[key]) for key in before)
