"""A rank whose data is slow is named, though all the others wait for it in their collectives."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from ranks_fixture import Pools, pools

from orchestrator.telemetry import meter

__all__ = ["pools"]


def waits(shares: list[float], shown: int) -> dict[str, float]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter, "_RANKS_SHOWN", shown)
        return meter.data_waits(shares[dist.get_rank()], torch.device("cpu"))


@pytest.mark.parametrize(
    ("shown", "ranks"),
    [(8, {"rank_0": 0.01, "rank_1": 0.5, "rank_2": 0.02}), (2, {"rank_1": 0.5, "rank_2": 0.02})],
)
def test_the_wait_is_that_of_the_slowest_rank_and_shown_by_rank(
    pools: Pools, shown: int, ranks: dict[str, float]
) -> None:
    expected = {
        "data/wait_share": 0.5,
        **{f"data/wait_share_{rank}": share for rank, share in ranks.items()},
    }
    assert pools.run(3, waits, [0.01, 0.5, 0.02], shown) == [expected] * 3


def test_one_worker_has_one_figure() -> None:
    assert meter.data_waits(0.25, torch.device("cpu")) == {"data/wait_share": 0.25}
