"""Committing, fencing, retention and waiting, by one rank; and the same on an object store."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_tools import ranges, tensors
from object_buckets import bucket_at
from safetensors import safe_open
from torch import Tensor

from orchestrator.checkpoint import (
    Checkpoint,
    Checkpoints,
    checkpoint_at,
    committed,
    newest_good,
    next_attempt,
    open_reader,
    staging,
)
from orchestrator.checkpoint.retention import kept
from orchestrator.checkpoint.staging import Staging
from orchestrator.errors import CheckpointError
from orchestrator.storage import LocalStore


def store(root: Any, attempt: int = 1, **more: Any) -> Checkpoints:
    return Checkpoints(str(root), attempt=attempt, rank=0, world_size=1, **more)


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name.startswith("step-"))


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    meta = {"scalars": {"updates/model": 3}, "metrics": {"loss": float("nan")}, "text": "ü"}
    store(tmp_path).save(3, ranges(tensors(3)), meta, asynchronous=False)
    found = newest_good(str(tmp_path))
    assert found is not None and (found.step, found.attempt) == (3, 1)
    assert found.path == f"{tmp_path}/step-00000003.attempt-1"
    assert str(found.meta) == str(meta)
    reader = open_reader(found)
    assert {key: shape for key, (shape, _) in reader.tensors().items()} == {
        key: tuple(tensor.shape) for key, tensor in tensors(3).items()
    }
    for (kind, name), tensor in tensors(3).items():
        flat = tensor.reshape(-1)
        assert torch.equal(reader.read(kind, name, 0, len(flat)), flat)
        assert torch.equal(reader.read(kind, name, len(flat) // 3, len(flat)), flat[len(flat) // 3 :])
        assert reader.read(kind, name, 0, 0).numel() == 0


def test_ranges_over_many_blocks_are_read_back(tmp_path: Path) -> None:
    """5 MB in blocks of 4 MiB: ranges that begin and end in different blocks."""
    whole = {("parameter", "a"): torch.randn(700_000), ("parameter", "b"): torch.randn(600_000)}
    store(tmp_path).save(1, ranges(whole), {}, asynchronous=False)
    found = newest_good(str(tmp_path))
    assert found is not None
    reader = open_reader(found)
    for start, stop in ((0, 600_000), (300_000, 550_000), (599_999, 600_000)):
        for kind, name in whole:
            assert torch.equal(reader.read(kind, name, start, stop), whole[kind, name][start:stop])


def test_a_ranks_file_is_a_plain_safetensors_file(tmp_path: Path) -> None:
    store(tmp_path).save(1, ranges(tensors(1)), {}, asynchronous=False)
    with safe_open(tmp_path / "step-00000001.attempt-1" / "rank-00000.safetensors", "pt") as file:
        stored = file.get_tensor("parameter:model/layer.0[0:35]")
    assert torch.equal(stored, tensors(1)["parameter", "model/layer.0"].reshape(-1))


def test_saving_a_committed_step_again_changes_nothing(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    checkpoints.save(1, ranges(tensors(1)), {}, asynchronous=False)
    before = (tmp_path / "step-00000001.attempt-1" / "COMMITTED").stat().st_mtime_ns
    checkpoints.save(1, ranges(tensors(2)), {}, asynchronous=False)
    assert (tmp_path / "step-00000001.attempt-1" / "COMMITTED").stat().st_mtime_ns == before


def test_elements_that_nobody_saved_are_noticed(tmp_path: Path) -> None:
    incomplete = list(ranges(tensors(1)))[1:] + list(ranges({("parameter", "x"): torch.ones(4)}, 0, 2))
    with pytest.raises(CheckpointError, match="x has 4 elements and only 2 are there"):
        store(tmp_path).save(1, incomplete, {}, asynchronous=False)
    assert newest_good(str(tmp_path)) is None


class Gated(LocalStore):
    """Writes nothing before it is let."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.reached = threading.Event()

    def write_chunks(self, path: str, chunks: Iterable[memoryview | bytes]) -> None:
        self.reached.set()
        assert self.gate.wait(60)
        super().write_chunks(path, chunks)


def test_training_goes_on_while_the_copy_is_written(tmp_path: Path) -> None:
    """The live tensors change before anything is written; what is saved is what they were."""
    storage = Gated(str(tmp_path))
    checkpoints = store(tmp_path, store=storage)
    live = tensors(1)
    checkpoints.save(1, ranges(live), {}, asynchronous=True)
    checkpoints.wait_until_copied()
    for tensor in live.values():
        tensor.zero_()
    assert storage.reached.wait(60)
    assert newest_good(str(tmp_path)) is None
    storage.gate.set()
    checkpoints.wait()
    found = newest_good(str(tmp_path))
    assert found is not None
    saved = open_reader(found).read("parameter", "model/layer.0", 0, 35)
    assert torch.equal(saved, tensors(1)["parameter", "model/layer.0"].reshape(-1))


class SlowCopy(Staging):
    """Copies when it is let, as a large state would take its time."""

    def __init__(self, gate: threading.Event) -> None:
        super().__init__()
        self._gate = gate

    def copy(self, values: Tensor) -> list[Tensor]:
        if threading.current_thread() is not threading.main_thread():
            assert self._gate.wait(60)
        return super().copy(values)


def test_an_update_waits_for_the_copy_and_a_forward_pass_may_change_buffers(tmp_path: Path) -> None:
    checkpoints, gate = store(tmp_path), threading.Event()
    checkpoints._staging = SlowCopy(gate)
    live = tensors(1)
    checkpoints.save(1, ranges(live), {}, asynchronous=True)
    for (kind, _), tensor in live.items():
        if kind == "buffer":
            tensor.zero_()

    def update() -> None:
        checkpoints.wait_until_copied()
        for tensor in live.values():
            tensor.zero_()

    with ThreadPoolExecutor(1) as executor:
        updated = executor.submit(update)
        with pytest.raises(TimeoutError):
            updated.result(timeout=0.2)
        gate.set()
        updated.result(timeout=60)
    checkpoints.wait()
    found = newest_good(str(tmp_path))
    assert found is not None
    for (kind, name), tensor in tensors(1).items():
        assert torch.equal(open_reader(found).read(kind, name, 0, tensor.numel()), tensor.reshape(-1)), name


def test_a_copy_that_fails_holds_no_update_up(tmp_path: Path) -> None:
    class NoMemory(Staging):
        def copy(self, values: Tensor) -> list[Tensor]:
            raise MemoryError("no memory left")

    checkpoints = store(tmp_path)
    checkpoints._staging = NoMemory()
    live = {key: tensor for key, tensor in tensors(1).items() if key[0] != "buffer"}
    checkpoints.save(1, ranges(live), {}, asynchronous=True)
    checkpoints.wait_until_copied()
    with pytest.raises(CheckpointError, match="no memory left"):
        checkpoints.wait()


def test_the_next_save_waits_for_the_last_and_reuses_its_buffers(tmp_path: Path) -> None:
    checkpoints = store(tmp_path)
    buffers = set()
    for step in range(1, 6):
        checkpoints.save(step, ranges(tensors(step)), {}, asynchronous=True)
        checkpoints.wait_until_copied()
        buffers.add(tuple(chunk.data_ptr() for chunk in checkpoints._staging._chunks))
    checkpoints.wait()
    assert len(buffers) == 1
    assert [c.step for c in committed(str(tmp_path))] == [5, 4, 3, 2, 1]
    for checkpoint in committed(str(tmp_path)):
        assert open_reader(checkpoint).read("buffer", "model/count", 0, 1).item() == checkpoint.step


def test_what_is_larger_than_a_buffer_is_copied_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_CHUNK_BYTES", 4096)
    buffers = Staging()
    values = [
        torch.arange(n, dtype=dtype)
        for n, dtype in ((7, torch.int8), (3000, torch.float64), (0, torch.int32))
    ]
    for _ in range(2):
        buffers.restart()
        copies = [buffers.copy(tensor) for tensor in values]
        for tensor, pieces in zip(values, copies, strict=True):
            assert torch.equal(
                torch.cat([torch.empty(0, dtype=torch.uint8), *pieces]).view(tensor.dtype), tensor
            )
    assert sum(len(chunk) for chunk in buffers._chunks) <= sum(tensor.nbytes for tensor in values) + 4096


def test_attempts_are_given_once(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as executor:
        numbers = list(executor.map(next_attempt, [str(tmp_path)] * 24))
    assert sorted(numbers) == list(range(1, 25))


def test_a_replaced_attempt_can_not_commit(tmp_path: Path) -> None:
    root = str(tmp_path)
    stale = store(root, attempt=next_attempt(root))
    stale.save(1, ranges(tensors(1)), {}, asynchronous=False)
    new = store(root, attempt=next_attempt(root))
    with pytest.raises(CheckpointError, match="attempt 1 of this run was replaced by attempt 2"):
        stale.save(2, ranges(tensors(2)), {}, asynchronous=False)
    new.save(2, ranges(tensors(3)), {}, asynchronous=False)
    assert folders(tmp_path) == ["step-00000001.attempt-1", "step-00000002.attempt-2"]


def test_an_attempt_replaced_while_it_writes_does_not_commit(tmp_path: Path) -> None:
    root = str(tmp_path)
    storage = Gated(root)
    storage.gate.set()
    stale = store(root, attempt=next_attempt(root), store=storage)
    storage.gate.clear()
    stale.save(1, ranges(tensors(1)), {}, asynchronous=True)
    assert storage.reached.wait(60)
    next_attempt(root)
    storage.gate.set()
    with pytest.raises(CheckpointError, match="was replaced by attempt 2"):
        stale.wait()
    assert newest_good(root) is None


def test_a_later_attempt_is_newer_whatever_its_step(tmp_path: Path) -> None:
    root = str(tmp_path)
    store(root, next_attempt(root)).save(9, ranges(tensors(9)), {}, asynchronous=False)
    store(root, next_attempt(root)).save(4, ranges(tensors(4)), {}, asynchronous=False)
    found = newest_good(root)
    assert found is not None and (found.step, found.attempt) == (4, 2)


def checkpoint(step: int, **metrics: Any) -> Checkpoint:
    return Checkpoint(step, 1, f"/{step}", {"metrics": metrics})


@pytest.mark.parametrize(
    ("last", "best", "mode", "expected"),
    [
        (1, 0, "min", [5]),
        (2, 1, "min", [5, 4, 2]),
        (1, 2, "min", [5, 3, 2]),
        (1, 1, "max", [5, 1]),
        (9, 9, "min", [5, 4, 3, 2, 1]),
    ],
)
def test_the_newest_and_the_best_stay(last: int, best: int, mode: str, expected: list[int]) -> None:
    there = [
        checkpoint(5),
        checkpoint(4, loss=float("nan")),
        checkpoint(3, loss=2.0),
        checkpoint(2, loss=1.0),
        checkpoint(1, loss=3.0),
    ]
    assert [c.step for c in kept(there, last=last, best=best, metric="loss", mode=mode)] == expected


def test_pruning_removes_the_rest_and_what_was_never_finished(tmp_path: Path) -> None:
    root = str(tmp_path)
    first = store(root, next_attempt(root))
    for step, loss in ((1, 0.5), (2, 0.1), (3, 0.9), (4, 0.8)):
        first.save(step, ranges(tensors(step)), {"metrics": {"loss": loss}}, asynchronous=False)
    (tmp_path / "step-00000005.attempt-1" / "x").mkdir(parents=True)
    (tmp_path / "keep-me").mkdir()
    first.prune(2, 1, "loss", "min")
    assert folders(tmp_path) == [f"step-{step:08d}.attempt-1" for step in (2, 3, 4, 5)]  # 5 may be under way
    store(root, next_attempt(root)).prune(1, 0, "loss", "min")
    assert folders(tmp_path) == ["step-00000004.attempt-1"]
    assert (tmp_path / "keep-me").is_dir()


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="this is no committed checkpoint"):
        checkpoint_at(str(tmp_path / "step-00000001.attempt-1"))


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request: pytest.FixtureRequest) -> Iterator[str]:
    with bucket_at(request.param, "runs") as uri:
        yield f"{uri}/%s/checkpoints"


def test_an_object_store_holds_checkpoints(bucket: str) -> None:
    root = bucket % "one"
    attempt = next_attempt(root)
    checkpoints = store(root, attempt)
    for step in (1, 2, 3):
        checkpoints.save(step, ranges(tensors(step)), {"metrics": {"loss": step}}, asynchronous=True)
    checkpoints.wait()
    found = newest_good(root)
    assert found is not None and found.step == 3
    assert checkpoint_at(found.path) == found
    assert torch.equal(
        open_reader(found).read("parameter", "model/layer.1", 3, 30),
        tensors(3)["parameter", "model/layer.1"].reshape(-1)[3:30],
    )
    checkpoints.prune(1, 1, "loss", "min")
    assert [c.step for c in committed(root)] == [3, 1]
    assert next_attempt(root) == attempt + 1
    with pytest.raises(CheckpointError, match="was replaced by attempt 2"):
        checkpoints.save(4, ranges(tensors(4)), {}, asynchronous=False)


def test_attempts_on_an_object_store_are_given_once(bucket: str) -> None:
    root = bucket % "many"
    with ThreadPoolExecutor(4) as executor:
        numbers = list(executor.map(next_attempt, [root] * 6))
    assert len(set(numbers)) == 6


def test_an_object_store_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.storage.faults.RETRIES", 0)
    root = "s3://nobody/x?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    with pytest.raises(CheckpointError, match="can't be written"):
        next_attempt(root)
