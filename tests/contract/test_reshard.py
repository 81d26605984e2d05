"""A checkpoint of any strategy and world size is read by any other, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import engine_toys as toys
import pytest
import torch
from ranks_fixture import Pools, pools
from test_engines import MAIN, STRATEGIES

from orchestrator.checkpoint import newest_good, open_reader
from orchestrator.errors import CheckpointError

__all__ = ["pools"]

STEPS = 3
SLICE = [
    (("ddp", 2), ("fsdp", 3)),
    (("fsdp", 3), ("zero3", 2)),
    (("zero3", 2), ("zero1", 3)),
    (("zero1", 3), ("zero2", 1)),
    (("zero2", 2), ("ddp", 3)),
    (("ddp", 1), ("zero3", 3)),
    (("zero3", 3), ("fsdp", 2)),
]
EVERY = [(strategy, world_size) for strategy in MAIN for world_size in (1, 2, 3)]


@pytest.fixture(scope="module")
def saved(pools: Pools, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a checkpoint after three steps, and the state that was saved, for a strategy and world size."""
    made: dict[Any, tuple[str, dict[tuple[str, str], torch.Tensor]]] = {}

    def save(strategy: str, world_size: int, kind: str = "classify") -> Any:
        key = (strategy, world_size, kind)
        if key not in made:
            root = str(tmp_path_factory.mktemp("saved"))
            plan = toys.toy_plan(world_size, STRATEGIES[strategy])
            runs = pools.run(world_size, toys.train_and_save, plan, kind, STEPS, root)
            checkpoint = newest_good(root)
            assert checkpoint is not None and checkpoint.step == STEPS
            made[key] = checkpoint.path, toys.assembled(runs)
        return made[key]

    return save


def check(pools: Pools, saved: Any, writer: tuple[str, int], reader: tuple[str, int], kind: str) -> None:
    path, expected = saved(*writer, kind)
    plan = toys.toy_plan(reader[1], STRATEGIES[reader[0]])
    runs = pools.run(reader[1], toys.resume, plan, kind, path, STEPS, 0)
    got = toys.assembled(runs)
    assert got.keys() == expected.keys()
    for key, tensor in expected.items():
        assert got[key].dtype == tensor.dtype and torch.equal(got[key], tensor), key
    assert {key[0] for key in got} == {"parameter", "exp_avg", "exp_avg_sq", "buffer"}
    assert runs[0].scalars == {f"updates/{phase}": STEPS for phase in toys.toy_objective(kind).phases}


@pytest.mark.parametrize(("writer", "reader"), SLICE, ids=str)
def test_state_is_bit_equal_in_another_strategy(
    pools: Pools, saved: Any, writer: tuple[str, int], reader: tuple[str, int]
) -> None:
    check(pools, saved, writer, reader, "classify")


GROUPS = {
    "fsdp": {"kind": "fsdp", "shard_group": 2},
    "zero3": {"kind": "zero", "stage": 3, "shard_group": 2},
}


@pytest.mark.parametrize("writer", GROUPS)
@pytest.mark.parametrize("reader", ["fsdp", "zero3", "ddp"])
def test_groups_that_share_a_copy_save_it_once_and_read_any_other(
    pools: Pools, writer: str, reader: str, tmp_path: Path
) -> None:
    """Four workers in groups of two, read by four in groups of two and by two workers of each other strategy."""
    plan = toys.toy_plan(4, GROUPS[writer], micro_batch_size=1)
    expected = toys.assembled(
        pools.run(4, toys.train_and_save, plan, "classify", STEPS, str(tmp_path))
    )  # each element once
    checkpoint = newest_good(str(tmp_path))
    assert checkpoint is not None
    world_size = 2 if reader == "ddp" else 4
    strategy = GROUPS.get(reader, STRATEGIES[reader])
    back = toys.toy_plan(world_size, strategy, micro_batch_size=1)
    got = toys.assembled(pools.run(world_size, toys.resume, back, "classify", checkpoint.path, STEPS, 0))
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[key], tensor) for key, tensor in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("reader", EVERY, ids=str)
@pytest.mark.parametrize("writer", EVERY, ids=str)
def test_every_pair_is_bit_equal(
    pools: Pools, saved: Any, writer: tuple[str, int], reader: tuple[str, int]
) -> None:
    check(pools, saved, writer, reader, "classify")


@pytest.mark.slow
@pytest.mark.parametrize("reader", MAIN)
@pytest.mark.parametrize("writer", MAIN)
def test_two_optimizers_are_bit_equal(pools: Pools, saved: Any, writer: str, reader: str) -> None:
    check(pools, saved, (writer, 2), (reader, 3), "wgan")


@pytest.mark.parametrize("strategy", MAIN)
def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(pools: Pools, saved: Any, strategy: str) -> None:
    """Three steps, a save, three more after loading: bit-equal to six steps in one go, by the same strategy."""
    path, _ = saved(strategy, 2)
    plan = toys.toy_plan(2, STRATEGIES[strategy])
    resumed = pools.run(2, toys.resume, plan, "classify", path, STEPS, STEPS)
    straight = pools.run(2, toys.train_steps, plan, "classify", 2 * STEPS)
    assert resumed[0].losses == straight[0].losses[STEPS:]
    got, expected = toys.assembled(resumed), toys.assembled(straight)
    assert all(torch.equal(got[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "zero2", "zero3"])
def test_bf16_masters_are_saved_exactly(pools: Pools, strategy: str, tmp_path: Path) -> None:
    plan = toys.toy_plan(2, STRATEGIES[strategy], precision="bf16")
    expected = toys.assembled(pools.run(2, toys.train_and_save, plan, "classify", STEPS, str(tmp_path)))
    checkpoint = newest_good(str(tmp_path))
    assert checkpoint is not None
    back = pools.run(2, toys.resume, plan, "classify", checkpoint.path, STEPS, 0)
    got = toys.assembled(back)
    assert all(torch.equal(got[key], tensor) for key, tensor in expected.items())
    frozen = open_reader(checkpoint).read("parameter", "model/frozen", 0, 10)
    assert torch.equal(frozen, torch.linspace(0, 1, 10))


@pytest.mark.parametrize("strategy", MAIN)
def test_no_rank_writes_everything(pools: Pools, strategy: str) -> None:
    """Each of two ranks writes about half of what is saved."""
    runs = pools.run(2, toys.train_steps, toys.toy_plan(2, STRATEGIES[strategy]), "classify", 1)
    sizes = [sum(len(values) for *_, values in run.ranges) for run in runs]
    assert 0.4 < sizes[0] / sum(sizes) < 0.6


@pytest.mark.parametrize("strategy", MAIN)
def test_another_optimizers_moments_are_refused(pools: Pools, saved: Any, strategy: str) -> None:
    path, _ = saved("ddp", 2)
    plan = toys.toy_plan(2, STRATEGIES[strategy], optimizer={"kind": "sgd"})
    with pytest.raises(CheckpointError, match="which the job's optimizer does not keep"):
        pools.run(2, toys.resume, plan, "classify", path, STEPS, 0)


@pytest.mark.parametrize("strategy", MAIN)
def test_another_model_is_refused(pools: Pools, saved: Any, strategy: str) -> None:
    path, _ = saved("ddp", 2)
    with pytest.raises(CheckpointError, match=r"holds no (parameter critic/|optimizer of critic)"):
        pools.run(2, toys.resume, toys.toy_plan(2, STRATEGIES[strategy]), "wgan", path, STEPS, 0)
