"""Which checkpoints there are, which are good, and what is said of the others."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

import pytest
import torch
from checkpoint_tools import ranges, tensors

from orchestrator.checkpoint import (
    Checkpoint,
    Checkpoints,
    checkpoint_at,
    committed,
    find,
    newest_good,
    next_attempt,
    open_reader,
)
from orchestrator.errors import CheckpointError
from orchestrator.state import StateRange
from orchestrator.storage import store_at

FIRST, SECOND = "step-00000001.attempt-1", "step-00000002.attempt-1"
META = {"metrics": {"loss": 0.5}}
DATA, INDEX = "rank-00000.safetensors", "rank-00000.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Good checkpoints of steps 1 and 2."""
    checkpoints = Checkpoints(str(tmp_path), attempt=1, rank=0, world_size=1)
    for step in (1, 2):
        checkpoints.save(step, ranges(tensors(step)), META, asynchronous=False)
    return tmp_path


def checkpoint(root: Path, step: int, attempt: int = 1) -> Checkpoint:
    return Checkpoint(step, attempt, f"{root}/step-{step:08d}.attempt-{attempt}", META)


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


# -- attempts --------------------------------------------------------------------------------------------------


def test_attempts_are_counted_from_one(tmp_path: Path) -> None:
    assert [next_attempt(str(tmp_path)) for _ in range(3)] == [1, 2, 3]


def test_an_attempt_follows_the_highest_whatever_else_lies_there(tmp_path: Path) -> None:
    for name in ("2", "11", "x", "99x", "²", "٣٣"):
        (tmp_path / "attempts" / name).mkdir(parents=True)
    assert next_attempt(str(tmp_path)) == 12


def test_an_attempt_that_another_took_in_between_is_not_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        next_attempt(str(tmp_path))
    monkeypatch.setattr(find, "newest_attempt", lambda _: 2)  # a list from before the others began
    assert next_attempt(str(tmp_path)) == 4


def test_a_storage_that_can_not_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    root = str(tmp_path / "file" / "checkpoints")
    with pytest.raises(
        CheckpointError, match=f"^checkpoint storage {re.escape(repr(root))} can't be written: .*ile"
    ):
        next_attempt(root)


def test_a_storage_that_can_not_be_opened_is_one_sentence() -> None:
    with pytest.raises(CheckpointError, match=r"^checkpoint storage 'ftp://host/x' can't be opened: "):
        next_attempt("ftp://host/x")


# -- finding ---------------------------------------------------------------------------------------------------


def test_an_empty_storage_has_none(tmp_path: Path) -> None:
    assert committed(str(tmp_path)) == []
    assert newest_good(str(tmp_path)) is None
    assert newest_good(str(tmp_path / "nothing")) is None


def test_the_newest_attempt_comes_first_and_then_the_highest_step(root: Path) -> None:
    later = Checkpoints(str(root), attempt=10, rank=0, world_size=1)
    for step in (1, 12):
        later.save(step, ranges(tensors(step)), META, asynchronous=False)
    Checkpoints(str(root), attempt=9, rank=0, world_size=1).save(
        13, ranges(tensors(1)), META, asynchronous=False
    )
    (root / "step-1.attempt-99").mkdir()
    (root / "notes").mkdir()
    expected = [checkpoint(root, *each) for each in ((12, 10), (1, 10), (13, 9), (2, 1), (1, 1))]
    assert committed(str(root)) == expected
    assert newest_good(str(root)) == expected[0]


def test_a_storage_may_be_named_with_a_stroke_at_its_end(root: Path) -> None:
    assert newest_good(f"{root}/") == checkpoint(root, 2)
    assert checkpoint_at(f"{root}/{SECOND}/") == checkpoint(root, 2)


def test_a_marker_holds_the_digest_of_the_manifest(root: Path) -> None:
    """As any later version must find it."""
    manifest = (root / SECOND / "manifest.json").read_bytes()
    assert (root / SECOND / "COMMITTED").read_bytes() == f"{hashlib.sha256(manifest).hexdigest()}\n".encode()


def test_a_store_may_be_given_in_place_of_its_root(root: Path) -> None:
    assert newest_good(store_at(str(root))) == checkpoint(root, 2)
    assert committed(store_at(str(root))) == [checkpoint(root, 2), checkpoint(root, 1)]


def test_a_checkpoint_is_named_from_the_working_directory(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    assert checkpoint_at(SECOND) == Checkpoint(2, 1, f"./{SECOND}", META)


def test_what_was_never_finished_is_told_and_left_aside(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / SECOND / "COMMITTED").unlink()
    with caplog.at_level(logging.INFO):
        assert newest_good(str(root)) == checkpoint(root, 1)
    assert caplog.record_tuples == [
        (
            "orchestrator.checkpoint.find",
            logging.INFO,
            f"checkpoint {SECOND} was never finished and is left aside",
        )
    ]
    assert committed(str(root)) == [checkpoint(root, 1)]


# -- damage ----------------------------------------------------------------------------------------------------


def damage(folder: Path, how: str) -> str:
    """Damage the checkpoint; returns what should be said of it."""
    if how == "other manifest":
        flip_last_bit(folder / "manifest.json")
        return "its manifest.json is not the one that was committed"
    if how == "no index":
        (folder / INDEX).unlink()
        return f"its {INDEX} is missing"
    if how == "other index":
        flip_last_bit(folder / INDEX)
        return f"its {INDEX} is damaged"
    if how == "no tensors":
        (folder / DATA).unlink()
        return f"its {DATA} is missing"
    size = (folder / DATA).stat().st_size
    if how == "longer":
        with (folder / DATA).open("ab") as file:
            file.write(b"more")
        return f"its {DATA} has {size + 4} bytes and was written with {size}"
    flip_last_bit(folder / DATA)
    return f"its {DATA} is damaged between bytes 0 and {size}"


@pytest.mark.parametrize(
    "how", ["other manifest", "no index", "other index", "no tensors", "longer", "flipped"]
)
def test_a_damaged_one_is_named_with_its_fault(
    root: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    fault = damage(root / SECOND, how)
    assert newest_good(str(root)) == checkpoint(root, 1)
    assert caplog.record_tuples == [
        ("orchestrator.checkpoint.find", logging.WARNING, f"checkpoint {SECOND} is left aside: {fault}")
    ]


def test_of_a_list_only_manifests_are_read(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    damage(root / SECOND, "flipped")
    assert committed(str(root)) == [checkpoint(root, 2), checkpoint(root, 1)]
    fault = damage(root / SECOND, "other manifest")
    assert committed(str(root)) == [checkpoint(root, 1)]
    assert caplog.record_tuples == [
        ("orchestrator.checkpoint.find", logging.WARNING, f"checkpoint {SECOND} is left aside: {fault}")
    ]


def test_the_manifest_of_another_folder_is_refused(root: Path) -> None:
    (root / SECOND).rename(root / "step-00000007.attempt-3")
    with pytest.raises(CheckpointError) as caught:
        checkpoint_at(f"{root}/step-00000007.attempt-3")
    assert str(caught.value) == (
        f"checkpoint {root}/step-00000007.attempt-3: its manifest.json is of step 2, attempt 1: the folder was renamed"
    )


def test_a_named_one_that_is_damaged_or_none_is_refused(root: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        checkpoint_at(f"{root}/step-00000003.attempt-1")
    assert str(caught.value) == f"{root}/step-00000003.attempt-1: this is no committed checkpoint"
    (root / FIRST / "COMMITTED").unlink()
    (root / FIRST / "COMMITTED").mkdir()
    with pytest.raises(CheckpointError, match=f"^checkpoint {root}/{FIRST}/: .*Is a directory"):
        checkpoint_at(f"{root}/{FIRST}/")


def test_damage_in_a_later_block_is_named_by_its_bytes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """5 MB are checked in blocks of 4 MiB."""
    values = torch.arange(1_250_000, dtype=torch.float32)
    Checkpoints(str(tmp_path), attempt=1, rank=0, world_size=1).save(
        1, [StateRange("parameter", "w", (1_250_000,), 0, values)], {}, asynchronous=False
    )
    size = (tmp_path / FIRST / DATA).stat().st_size
    flip_last_bit(tmp_path / FIRST / DATA)
    assert newest_good(str(tmp_path)) is None
    assert caplog.messages == [
        f"checkpoint {FIRST} is left aside: its {DATA} is damaged between bytes {4 << 20} and {size}"
    ]
    reader = open_reader(checkpoint_at(f"{tmp_path}/{FIRST}"))
    assert torch.equal(reader.read("parameter", "w", 3, 9), values[3:9])  # of the sound first block
    with pytest.raises(CheckpointError, match="is damaged between bytes"):
        reader.read("parameter", "w", 1_249_999, 1_250_000)
