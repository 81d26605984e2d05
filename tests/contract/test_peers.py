"""What ranks decide together is the same on all of them, whatever it is."""

from __future__ import annotations

import torch
from ranks_fixture import Pools, pools

from orchestrator.control import Peers, StopCheck
from orchestrator.errors import CheckpointError

__all__ = ["pools"]


def agree(fails: bool) -> tuple[int, str]:
    """What this rank hears of rank 0's answer; the other ranks' own are never asked for."""
    peers = Peers()

    def ask() -> int:
        if fails:
            raise OSError("the store is away")
        return 7 if peers.rank == 0 else -1

    try:
        return peers.agree(ask), ""
    except CheckpointError as error:
        return 0, str(error)


def test_rank_0_answers_for_all(pools: Pools) -> None:
    assert pools.run(2, agree, False) == [(7, "")] * 2


def test_rank_0_fails_for_all(pools: Pools) -> None:
    assert pools.run(2, agree, True) == [(0, "the store is away")] * 2


def unite() -> list[int]:
    """Each rank brings its own number and one that all have."""
    peers = Peers()
    return peers.union([10 * peers.rank, 5])


def test_the_numbers_of_all_ranks_are_united(pools: Pools) -> None:
    assert pools.run(2, unite) == [[0, 5, 10]] * 2


def step_of_the_stop() -> int:
    """The step after which this rank stops; rank 0 is asked at once, and the other would never."""
    peers = Peers()
    check = StopCheck(peers, lambda: peers.rank == 0)
    return next(step for step in range(1, 5000) if check.requested(step))


def test_all_ranks_stop_after_the_same_step(pools: Pools) -> None:
    steps = pools.run(2, step_of_the_stop)
    assert steps[0] == steps[1]


def step_of_the_notice() -> tuple[int, bool]:
    """The step after which this rank leaves; only the other one has notice, and only from its third look on."""
    peers = Peers()
    looks = iter([False, False])
    check = StopCheck(peers, lambda: False, lambda: peers.rank == 1 and next(looks, True))
    return next(step for step in range(1, 5000) if check.requested(step)), check.leaves


def test_all_ranks_leave_after_the_same_step_whoever_has_notice(pools: Pools) -> None:
    first, second = pools.run(2, step_of_the_notice)
    assert first == second and first[0] > 1 and first[1]


def seconds_until_a_silent_rank_is_an_error() -> float:
    group = Peers(hang_timeout=42.0).group
    assert group is not None
    return group._get_backend(torch.device("cpu")).options._timeout.total_seconds()


def test_a_rank_that_does_not_answer_is_waited_for_as_long_as_the_job_says(pools: Pools) -> None:
    assert pools.run(2, seconds_until_a_silent_rank_is_an_error) == [42.0] * 2
