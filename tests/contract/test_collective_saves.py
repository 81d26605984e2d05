"""Saving by several ranks: all hear of one rank's failure, and nothing half-written is ever committed."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from ranks_fixture import Pools, pools

from orchestrator.checkpoint import Checkpoints, newest_good, open_reader
from orchestrator.errors import CheckpointError
from orchestrator.state import StateRange
from orchestrator.storage import LocalStore

__all__ = ["pools"]


def part(step: int, rank: int, world_size: int) -> StateRange:
    start, stop = 100 * rank // world_size, 100 * (rank + 1) // world_size
    return StateRange(
        "parameter", "model/weight", (100,), start, torch.arange(start, stop) * 1.0 + step, until_update=True
    )


class FullOnOneRank(LocalStore):
    """The disk of one rank is full, for files of one step."""

    def write_chunks(self, path: str, chunks: Iterable[memoryview | bytes]) -> None:
        if "step-00000002" in path and "rank-00001" in path:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write_chunks(path, chunks)


def save_three_steps(root: str, asynchronous: bool) -> list[str | None]:
    """Steps 1 to 3, of which rank 1 can't write the second; what each save (or the wait after it) raised."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    group = dist.new_group(backend="gloo")
    checkpoints = Checkpoints(
        root, attempt=1, rank=rank, world_size=world_size, group=group, store=FullOnOneRank(root)
    )
    raised: list[str | None] = []
    for step in (1, 2, 3):
        try:
            checkpoints.save(step, [part(step, rank, world_size)], {"step": step}, asynchronous=asynchronous)
            checkpoints.wait()
            raised.append(None)
        except CheckpointError as error:
            raised.append(str(error))
    checkpoints.close()
    return raised


@pytest.mark.parametrize("asynchronous", [False, True])
def test_one_ranks_failure_is_everybodys(pools: Pools, tmp_path: Path, asynchronous: bool) -> None:
    answers = pools.run(3, save_three_steps, str(tmp_path), asynchronous)
    assert all(answer == answers[0] for answer in answers)
    first, second, third = answers[0]
    assert first is None and third is None and second is not None
    assert "step 2 could not be written" in second and "no space left for rank 1's" in second
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000001.attempt-1",
        "step-00000003.attempt-1",
    ]
    found = newest_good(str(tmp_path))
    assert found is not None and found.step == 3
    assert torch.equal(open_reader(found).read("parameter", "model/weight", 0, 100), torch.arange(100) + 3.0)
