"""Damaged checkpoints are named and skipped; nothing in one is ever executed."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_tools import ranges, tensors

from orchestrator.checkpoint import Checkpoints, checkpoint_at, newest_good, open_reader
from orchestrator.errors import CheckpointError


@pytest.fixture
def two_steps(tmp_path: Path) -> Path:
    """Checkpoints of steps 1 and 2; returns the folder of step 2."""
    checkpoints = Checkpoints(str(tmp_path), attempt=1, rank=0, world_size=1)
    for step in (1, 2):
        checkpoints.save(step, ranges(tensors(step)), {"metrics": {"loss": 0.5}}, asynchronous=False)
    return tmp_path / "step-00000002.attempt-1"


FILES = ["COMMITTED", "manifest.json", "rank-00000.json", "rank-00000.safetensors"]


def newest_step(folder: Path) -> int | None:
    found = newest_good(str(folder.parent))
    return found.step if found else None


def test_there_are_no_other_files(two_steps: Path) -> None:
    assert sorted(path.name for path in two_steps.iterdir()) == sorted(FILES)


def test_a_thousand_flipped_bits_are_a_thousand_found(
    two_steps: Path, caplog: pytest.LogCaptureFixture
) -> None:
    random.seed(7)
    sizes = {name: (two_steps / name).stat().st_size for name in FILES}
    detected = 0
    for trial in range(1000):
        # a third each in the small files, so that all are hit, the rest by size
        name = FILES[trial % 3] if trial % 2 else random.choices(FILES, list(sizes.values()))[0]
        path = two_steps / name
        content = bytearray(path.read_bytes())
        bit = random.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        caplog.clear()
        detected += newest_step(two_steps) == 1 and any(
            "attempt-1 is left aside" in m for m in caplog.messages
        )
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
    assert detected == 1000
    assert newest_step(two_steps) == 2


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "1%", "50%", "99%", "zeros", "longer", "swapped"])
def test_every_kind_of_damage_is_found(
    two_steps: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = two_steps / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage.endswith("%"):
        path.write_bytes(content[: len(content) * int(damage[:-1]) // 100])
    elif damage == "zeros":
        path.write_bytes(bytes(len(content)))
    elif damage == "longer":
        path.write_bytes(content + b"\0")
    else:
        path.write_bytes((two_steps.parent / "step-00000001.attempt-1" / name).read_bytes())
    assert newest_step(two_steps) == 1
    if (name, damage) != ("COMMITTED", "missing"):  # then it was never committed
        assert any(name in m or "manifest.json" in m for m in caplog.messages)


def test_reading_verifies_what_it_reads(two_steps: Path) -> None:
    """Damage that came after the folder was chosen is found when the range is read."""
    reader = open_reader(checkpoint_at(str(two_steps)))
    path = two_steps / "rank-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"step-00000002.*rank-00000\.safetensors is damaged"):
        reader.read("parameter", "model/layer.0", 0, 1)


def test_a_renamed_folder_is_found(two_steps: Path) -> None:
    two_steps.rename(two_steps.with_name("step-00000009.attempt-1"))
    assert newest_step(two_steps) == 1


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "name", [*FILES, ".metadata", "__0_0.distcp", "mp_rank_00_model_states.pt", "latest"]
)
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_nothing_is_executed(two_steps: Path, tmp_path: Path, name: str, how: str) -> None:
    mark = tmp_path / "executed"
    if how == "pickle":
        (two_steps / name).write_bytes(pickle.dumps(_Bomb(mark)))
    else:
        with (two_steps / name).open("wb") as file:
            torch.save(_Bomb(mark), file)
    found = newest_good(str(tmp_path))
    assert found is not None
    reader = open_reader(found)
    for (kind, tensor_name), (shape, _) in reader.tensors().items():
        reader.read(kind, tensor_name, 0, torch.Size(shape).numel())
    assert not mark.exists()
    pickle.loads(pickle.dumps(_Bomb(mark)))
    assert mark.exists()  # the bomb works


def test_a_crafted_index_can_not_reach_outside(two_steps: Path) -> None:
    """An index that lies about sizes is refused, even where its checksums fit."""
    from orchestrator.checkpoint import find
    from orchestrator.checkpoint.format import encode, sha256
    from orchestrator.storage import LocalStore

    storage = LocalStore(str(two_steps.parent))
    manifest = find.read_manifest(storage, two_steps.name)
    index = find.read_indexes(storage, two_steps.name, manifest)[0]
    lies = {
        "outside the file": index.ranges[0].model_copy(update={"stop": 10**12}),
        "unknown number format": index.ranges[0].model_copy(update={"dtype": "PICKLE"}),
        "don't fit together": index.ranges[0].model_copy(update={"start": 1, "stop": 2}),
        "has 1000000000000 elements": index.ranges[0].model_copy(update={"shape": (10**6, 10**6)}),
    }
    for message, entry in lies.items():
        content = encode(index.model_copy(update={"ranges": (entry, *index.ranges[1:])}))
        (two_steps / "rank-00000.json").write_bytes(content)
        crafted = encode(manifest.model_copy(update={"index_sha256": (sha256(content),)}))
        (two_steps / "manifest.json").write_bytes(crafted)
        (two_steps / "COMMITTED").write_bytes(find.commit_marker(crafted))
        with pytest.raises(CheckpointError, match=message):
            open_reader(checkpoint_at(str(two_steps)))
        assert newest_step(two_steps) == 1
