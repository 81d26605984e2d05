"""What every Store promises, on a disk and on local servers of S3 and GCS."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faulty_disk import UnsyncedCalls
from object_buckets import bucket_at

from orchestrator.storage import LocalStore, ObjectStore, Store, objects, store_and_name, store_at
from orchestrator.storage.faults import Fault, fault_of


@pytest.fixture(scope="module", params=["path", "file", "s3", "gs"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param in ("s3", "gs"):
        with bucket_at(request.param, "bucket") as uri:
            yield uri
    else:
        folder = tmp_path_factory.mktemp("stores")
        yield str(folder) if request.param == "path" else f"file://{folder}"


@pytest.fixture
def store(place: str, request: pytest.FixtureRequest) -> Store:
    return store_at(f"{place}/{request.node.originalname}/deep")


def test_what_is_written_is_read_in_any_range(store: Store) -> None:
    store.write("a/b", b"0123456789")
    assert store.read("a/b") == b"0123456789"
    assert store.read("a/b", 3, 4) == b"3456" and store.read("a/b", 8, 99) == b"89"
    assert store.read("a/b", 10) == store.read("a/b", 99, 5) == b""
    assert store.size("a/b") == 10 and store.exists("a/b")
    store.write("a/b", b"")
    assert store.read("a/b") == b"" and store.size("a/b") == 0


def test_what_is_not_there_is_nothing_and_can_not_be_read(store: Store) -> None:
    store.write("folder/file", b"x")
    for path in ("none", "folder", "folder/none"):
        assert store.size(path) is None and not store.exists(path)
        if path != "folder":
            with pytest.raises(FileNotFoundError):
                store.read(path)
    assert store.list("none") == []
    store.remove("none")


def test_chunks_and_drafts_are_files_like_any_other(store: Store) -> None:
    store.write_chunks("chunks", (memoryview(bytes([i]) * 300_000) for i in range(20)))
    with store.draft("more/draft") as draft:
        draft.write_bytes(b"made elsewhere")
    assert store.size("chunks") == 6_000_000 and store.read("chunks", 299_999, 2) == b"\0\1"
    assert store.read("more/draft") == b"made elsewhere"
    assert store.list("") == ["chunks", "more"] and store.list("more") == ["draft"]


def test_of_what_fails_half_way_nothing_is_seen(store: Store) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the other half")

    with pytest.raises(RuntimeError):
        store.write_chunks("chunks", chunks())
    store.write("draft", b"before")
    with pytest.raises(RuntimeError), store.draft("draft") as draft:
        draft.write_bytes(b"half")
        raise RuntimeError("the other half")
    assert store.list("") == ["draft"] and store.read("draft") == b"before"


def test_all_files_below_a_folder_are_told_with_size_and_time(store: Store) -> None:
    store.write("a/b", b"xyz")
    store.write("a/c/d", b"")
    store.write("e", b"x")
    assert [(file.path, file.size_bytes) for file in store.files("a")] == [("a/b", 3), ("a/c/d", 0)]
    assert [file.path for file in store.files("")] == ["a/b", "a/c/d", "e"]
    assert all(abs(file.changed - time.time()) < 100 for file in store.files(""))
    assert store.files("none") == []


def test_folders_are_listed_and_removed_whole(store: Store) -> None:
    for path in ("a/b", "a/c/d", "e"):
        store.write(path, b"x")
    assert store.list("") == ["a", "e"] and store.list("a") == ["b", "c"]
    for path in ("a", "e", "nothing"):
        store.remove(path)
    assert store.list("") == []


def test_a_file_is_created_once_and_leaves_nothing_beside_it(store: Store) -> None:
    assert store.create("x/once", b"first")
    assert not store.create("x/once", b"second")
    store.write("x/there", b"written")
    assert not store.create("x/there", b"created")
    assert store.read("x/once") == b"first" and store.read("x/there") == b"written"
    assert store.list("x") == ["once", "there"]


def test_of_many_callers_one_creates(store: Store) -> None:
    """All at once, again and again; what is there is the winner's."""
    callers = 4
    for number in range(3):
        barrier = threading.Barrier(callers)

        def create(caller: int, path: str = f"f-{number}", barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return store.create(path, str(caller).encode())

        with ThreadPoolExecutor(callers) as executor:
            answers = list(executor.map(create, range(callers)))
        assert sorted(answers) == [False] * (callers - 1) + [True]
        assert store.read(f"f-{number}") == str(answers.index(True)).encode()
    assert store.list("") == ["f-0", "f-1", "f-2"]


def test_a_file_that_its_creator_did_not_come_to_write_is_written_by_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an object store; on a disk a link is made in one call."""
    if isinstance(store, LocalStore):
        return
    monkeypatch.setattr(objects, "PATIENCE_SECONDS", 1.0)
    store.write("end.tickets/0123", b"the dead one's")
    assert not store.create("end", b"the next one's")
    assert store.read("end") == b"the dead one's"
    assert store.list("end.tickets") == []


def test_who_comes_between_another_s_look_and_ticket_was_first(store: Store) -> None:
    """In an object store: the other's ticket then stands alone, and its owner looks for the file once more."""
    if isinstance(store, LocalStore):
        return
    others: list[bool] = []

    class Late(ObjectStore):
        def write(self, path: str, content: bytes) -> None:
            if not others:
                others.append(store.create("end", b"first"))
            super().write(path, content)

    assert not Late(store.root).create("end", b"second")
    assert others == [True] and store.read("end") == b"first"


def test_a_link_that_nfs_made_and_denies_is_ours(tmp_path: Path) -> None:
    class LostAnswer(UnsyncedCalls):
        def link(self, old: Path, new: Path) -> None:
            super().link(old, new)
            os.link(old, new)

    assert LocalStore(str(tmp_path), LostAnswer()).create("a", b"x")


def test_a_folder_where_a_file_is_to_be_created_was_there_first(tmp_path: Path) -> None:
    (tmp_path / "attempts" / "3").mkdir(parents=True)
    assert not store_at(str(tmp_path)).create("attempts/3", b"")


def test_a_link_to_elsewhere_is_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "elsewhere")
    store_at(str(tmp_path / "root")).remove("link")
    assert (tmp_path / "elsewhere").is_dir() and not (tmp_path / "root" / "link").is_symlink()


def test_stores_are_told_by_their_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    assert isinstance(store_at(str(tmp_path)), LocalStore)
    assert isinstance(store_at("s3://bucket/x"), ObjectStore)
    assert store_and_name("/file")[0].root == "/" and store_and_name("file")[0].root == "."
    store, name = store_and_name("s3://bucket/a/b")
    assert (store.root, name) == ("s3://bucket/a", "b")
    with pytest.raises(OSError, match="ftp"):
        store_at("ftp://host/x")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (FileNotFoundError("x"), Fault.REFUSED),
        (OSError(28, "No space left on device"), Fault.REFUSED),
        (OSError("When reading: AWS Error ACCESS_DENIED"), Fault.REFUSED),
        (OSError("Could not create a OAuth2 access token to authenticate"), Fault.REFUSED),
        (OSError("Corrupt snappy compressed data."), Fault.DAMAGED),
        (OSError("AWS Error NETWORK_CONNECTION during GetObject"), Fault.PASSING),
        (OSError(5, "Input/output error"), Fault.PASSING),
    ],
)
def test_what_an_error_means(error: OSError, fault: Fault) -> None:
    assert fault_of(error) is fault
