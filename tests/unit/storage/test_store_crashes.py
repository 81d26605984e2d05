"""Whatever call of the disk fails, and however: a file is the old one or the new one, whole, and is made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_disk import FaultyCalls, Killed, at_every_point

from orchestrator.storage import LocalStore, Store

OLD, NEW = b"old " * 20, b"new " * 50


def write(store: Store) -> None:
    store.write("a/b/file", NEW)


def write_chunks(store: Store) -> None:
    store.write_chunks("a/b/file", (NEW[start : start + 50] for start in range(0, len(NEW), 50)))


def draft(store: Store) -> None:
    with store.draft("a/b/file") as path:
        path.write_bytes(NEW)  # as another library does, which syncs nothing


def create(store: Store) -> None:
    assert store.create("a/b/file", NEW)


@pytest.mark.parametrize("mode", ["error", "full", "kill", "power"])
@pytest.mark.parametrize(
    ("action", "old"),
    [*((action, old) for action in (write, write_chunks, draft) for old in (OLD, None)), (create, None)],
)
def test_a_file_is_seen_whole_or_not_at_all(
    tmp_path: Path, mode: str, action: Callable[[Store], None], old: bytes | None
) -> None:
    def before(store: Store) -> None:
        if old is not None:
            store.write("a/b/file", old)

    for root, has_failed in at_every_point(tmp_path, mode, before, action):
        store = LocalStore(str(root))
        seen = store.read("a/b/file") if store.exists("a/b/file") else None
        assert seen in ((old, NEW) if has_failed else (NEW,)), root
        assert store.list("a/b") in (["file"], []), "what was left half is not shown"
        if has_failed and mode in ("error", "full"):
            assert list(root.rglob(".*")) == [], "and where the process lives, not left either"
        # the same again on a disk that works
        if action is not create or seen is None:
            action(store)
        assert store.read("a/b/file") == NEW


@pytest.mark.parametrize("action", [write, write_chunks, draft, create])
def test_what_a_verb_has_written_outlives_a_loss_of_power(
    tmp_path: Path, action: Callable[[Store], None]
) -> None:
    calls = FaultyCalls("power", -1)
    action(LocalStore(str(tmp_path), calls))
    with pytest.raises(Killed):
        calls.lose_power()
    assert LocalStore(str(tmp_path)).read("a/b/file") == NEW
