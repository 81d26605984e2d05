"""A rank whose data is slow is named, though all the others wait for it in their collectives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from engine_toys import Classify, global_batch, toy_plan
from ranks_fixture import Pools, pools

from orchestrator import loop
from orchestrator.loop import Step
from orchestrator.models.base import Batch, Sums
from orchestrator.strategies.base import Engine, Update
from orchestrator.strategies.replicated import rank_and_world_size
from orchestrator.telemetry import meter, step_metrics
from orchestrator.testing import RecordingEngine, RecordingSurroundings, steps_of

__all__ = ["pools"]


class Clock:
    now = 0.0


class TakesTheRest(RecordingEngine):
    """A step of a second, of which the data took a share."""

    def __init__(self, clock: Clock, share: float) -> None:
        super().__init__({"model": torch.nn.Linear(5, 7)})
        self._clock, self._share = clock, share

    def step(
        self,
        phase: str,
        learning_rate_factor: float,
        clip_norm: float | None,
        leave_out: torch.Tensor | None = None,
    ) -> Update:
        self._clock.now += 1 - self._share
        return super().step(phase, learning_rate_factor, clip_norm, leave_out)


def waits(shares: list[float], shown: int) -> dict[str, float]:
    """What this rank logs of its waits, where each rank's data takes its share of a step's time."""
    rank, world_size = rank_and_world_size()
    clock, plan, around = Clock(), toy_plan(world_size, {"kind": "ddp"}), RecordingSurroundings(stop_at=1)
    engine: Engine = TakesTheRest(clock, shares[rank])

    def late() -> Iterator[Step]:
        for step in steps_of([global_batch(0)], plan):
            clock.now += shares[rank]
            yield step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_metrics, "_RANKS_SHOWN", shown)
        patch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: clock.now))
        loop.train(plan, engine, Classify(), late(), around, 0)
    return {name: value for name, value in around.logged[0].values.items() if "data_wait_share" in name}


@pytest.mark.parametrize(
    ("shown", "ranks"),
    [(8, {"rank_0": 0.01, "rank_1": 0.5, "rank_2": 0.02}), (2, {"rank_1": 0.5, "rank_2": 0.02})],
)
def test_the_wait_is_that_of_the_slowest_rank_and_shown_by_rank(
    pools: Pools, shown: int, ranks: dict[str, float]
) -> None:
    expected = {
        "system/data_wait_share": 0.5,
        **{f"system/data_wait_share_{rank}": share for rank, share in ranks.items()},
    }
    assert pools.run(3, waits, [0.01, 0.5, 0.02], shown) == [pytest.approx(expected)] * 3


def test_one_worker_has_one_figure() -> None:
    assert not dist.is_initialized()
    assert waits([0.25], 8) == {"system/data_wait_share": pytest.approx(0.25)}


class SlowForward(Classify):
    """Takes its time, of which only this rank's clock knows."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self._clock, self._seconds = clock, seconds

    def loss(self, phase: str, modules: Mapping[str, torch.nn.Module], batch: Batch) -> Sums:
        self._clock.now += self._seconds
        return super().loss(phase, modules, batch)


def slowest(seconds: list[float]) -> dict[str, float]:
    """What this rank logs of the slowest one, where each rank's forward pass takes so long."""
    rank, world_size = rank_and_world_size()
    clock, plan, around = Clock(), toy_plan(world_size, {"kind": "ddp"}), RecordingSurroundings(stop_at=1)
    engine: Engine = TakesTheRest(clock, 0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: clock.now))
        steps = steps_of([global_batch(0)], plan)
        loop.train(plan, engine, SlowForward(clock, seconds[rank]), steps, around, 0)
    return {name: value for name, value in around.logged[0].values.items() if "slowest" in name}


def test_the_rank_whose_forward_takes_longest_is_named_with_what_it_is_behind(pools: Pools) -> None:
    expected = {
        "system/slowest_rank": 2.0,
        "system/slowest_rank_behind_ms": pytest.approx(500.0),
    }  # of two micro-batches
    assert pools.run(3, slowest, [0.25, 0.125, 0.5]) == [expected] * 3
    assert slowest([0.25]) == {}
