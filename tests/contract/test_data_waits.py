"""A rank whose data is slow is named, though all the others wait for it in their collectives."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

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
from orchestrator.telemetry.step_metrics import communication
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


class SlowBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, batch: torch.Tensor, seconds: float) -> torch.Tensor:
        ctx.seconds = seconds
        return batch.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        time.sleep(ctx.seconds)
        return gradients[0], None


class SlowModel(torch.nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.inner, self.outer = seconds, torch.nn.Linear(5, 7), torch.nn.Linear(7, 7)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        inside: torch.Tensor = SlowBackward.apply(self.inner(batch), self.seconds)
        outside: torch.Tensor = self.outer(inside)
        return outside


def reductions(seconds: list[float], *, reduces_last: bool = True) -> float | None:
    """Seconds that this rank waits for the others' gradients, where each rank's own backward pass takes so long."""
    rank, _ = rank_and_world_size()
    model = torch.nn.parallel.DistributedDataParallel(SlowModel(seconds[rank]))
    measured = meter.Meter(meter.HostClock(), reduces_last=reduces_last)
    for _ in range(2):  # the first sets DDP up
        measured.read()
        loss = model(torch.ones(2, 5)).sum()
        with measured.backward(loss):
            loss.backward()
    measured.read()
    return measured.reduction_seconds


def test_a_rank_that_is_done_waits_for_gradients_of_the_others(pools: Pools) -> None:
    first, second = pools.run(2, reductions, [0.0, 0.5])
    assert first is not None and second is not None
    assert first > 0.3 and second < first - 0.2, "the slow one has hardly any to wait for"
    assert communication([1e3 * first, 1e3 * second]) == {"system/communication_ms": 1e3 * second}
    unknown = pools.run(2, not_known, [0.0, 0.0])
    assert unknown == [None, None], "an engine that reduces in between says nothing"


def not_known(seconds: list[float]) -> float | None:
    return reductions(seconds, reduces_last=False)
