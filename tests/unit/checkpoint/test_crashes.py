"""Whatever call of a save fails, and however, the run can be resumed from the last committed checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint_tools import ranges, tensors
from faulty_disk import FaultyCalls, UnsyncedCalls

from orchestrator.checkpoint import Checkpoints, newest_good, next_attempt, open_reader
from orchestrator.checkpoint.staging import Staging
from orchestrator.checkpoint.writer import Part, Save, describe
from orchestrator.errors import CheckpointError
from orchestrator.storage import LocalStore
from orchestrator.storage.local import SystemCalls

RANKS = 2


def save_all_ranks(root: Path, step: int, attempt: int, calls: SystemCalls | None = None) -> list[str | None]:
    """One save by two ranks, each on its thread, over one disk; the failures."""
    store = LocalStore(str(root), calls or UnsyncedCalls())
    saves = []
    for rank in range(RANKS):
        parts = [
            Part(describe(part), part.values.nbytes, values=part.values)
            for part in ranges(tensors(step), rank, RANKS)
        ]
        saves.append(Save(store, step, attempt, rank, RANKS, {"step": step}, parts, Staging()))
    # one after the other, so that the k-th call is always the same one; rank 0 commits last
    for save in reversed(saves):
        save.start()
        save.written.wait()
        if save.failure is not None:
            for other in saves:
                other.abandon()
            return [save.failure]
    for save in saves:
        save.join()
    return [save.failure for save in saves]


def assert_is(root: Path, step: int) -> None:
    found = newest_good(str(root))
    assert found is not None and found.step == step
    reader = open_reader(found)
    for (kind, name), tensor in tensors(step).items():
        assert torch.equal(reader.read(kind, name, 0, tensor.numel()), tensor.reshape(-1))


def count_calls(tmp_path: Path) -> int:
    """Of a second save, whose folders are partly there."""
    save_all_ranks(tmp_path / "counted", 1, 1)
    calls = FaultyCalls("none", -1)
    save_all_ranks(tmp_path / "counted", 2, 1, calls)
    return calls.calls


@pytest.mark.parametrize("mode", ["error", "full", "kill", "power"])
def test_every_crash_point_can_be_resumed(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL")
    points = count_calls(tmp_path)
    assert points >= 75  # times four modes: at least 300 crash points
    committed_all_the_same = 0
    for point in range(1, points + 1):
        root = tmp_path / f"{mode}-{point}"
        assert save_all_ranks(root, 1, next_attempt(str(root))) == [None] * RANKS
        attempt = next_attempt(str(root))
        failures = save_all_ranks(root, 2, attempt, FaultyCalls(mode, point))
        found = newest_good(str(root))
        assert found is not None and found.step in (1, 2)
        assert_is(root, found.step)
        committed_all_the_same += found.step == 2
        if found.step == 1:
            assert any(failures), (mode, point)
        # the run goes on as a new attempt on a disk that works again, and clears up
        attempt = next_attempt(str(root))
        assert save_all_ranks(root, 3, attempt) == [None] * RANKS
        assert_is(root, 3)
        Checkpoints(str(root), attempt=attempt, rank=0, world_size=1).prune(1, 0, "loss", "min")
        assert [p.name for p in root.iterdir() if p.name.startswith("step-")] == [
            f"step-00000003.attempt-{attempt}"
        ]
    # only the calls after the last rename come too late; a full disk stops writes, of which there is none then
    assert committed_all_the_same == {"error": 2, "kill": 2, "power": 0, "full": 5}[mode]


def test_a_full_disk_is_one_sentence_and_leaves_nothing_behind(tmp_path: Path) -> None:
    good = Checkpoints(str(tmp_path), attempt=1, rank=0, world_size=1)
    good.save(1, ranges(tensors(1)), {}, asynchronous=False)
    faulty = Checkpoints(
        str(tmp_path),
        attempt=1,
        rank=0,
        world_size=1,
        store=LocalStore(str(tmp_path), FaultyCalls("full", 12)),
    )
    with pytest.raises(CheckpointError, match=r"step 2 could not be written .*no space left") as raised:
        faulty.save(2, ranges(tensors(2)), {}, asynchronous=False)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "step-00000002.attempt-1").exists()
    assert_is(tmp_path, 1)


def test_a_failure_in_the_background_surfaces_at_the_next_save(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path), FaultyCalls("error", 9))
    checkpoints = Checkpoints(str(tmp_path), attempt=1, rank=0, world_size=1, store=store)
    checkpoints.save(1, ranges(tensors(1)), {}, asynchronous=True)
    with pytest.raises(CheckpointError, match="step 1 could not be written"):
        checkpoints.save(2, ranges(tensors(2)), {}, asynchronous=True)
    assert newest_good(str(tmp_path)) is None
    checkpoints.save(3, ranges(tensors(3)), {}, asynchronous=True)
    checkpoints.wait()
    assert_is(tmp_path, 3)
