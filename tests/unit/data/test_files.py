"""Files of the data's cache: whole or not at all, whatever fails, and errors that say what and where."""

from __future__ import annotations

from pathlib import Path

import pytest
from faulty_disk import FaultyCalls, Killed

from orchestrator.data.cache import remembered
from orchestrator.data.files import exists, read_range, write_text, write_whole
from orchestrator.errors import DataError, InfrastructureError
from orchestrator.storage import LocalStore, local

VALUE = ["made", 1, None] * 20


def points_of(monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    calls = FaultyCalls("none", -1)
    monkeypatch.setattr(local, "SystemCalls", lambda: calls)
    remembered(str(folder), "test", 1, "key", lambda: VALUE)
    monkeypatch.undo()
    return calls.calls


@pytest.mark.parametrize("mode", ["error", "full", "kill", "power"])
def test_what_is_remembered_is_whole_whatever_call_of_the_disk_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    points = points_of(monkeypatch, tmp_path / "counted")
    assert points >= 5
    for point in range(1, points + 1):
        cache = str(tmp_path / f"{mode}-{point}")
        calls = FaultyCalls(mode, point)
        monkeypatch.setattr(local, "SystemCalls", lambda calls=calls: calls)
        try:
            remembered(cache, "test", 1, "key", lambda: VALUE)
            has_failed = False
        except (InfrastructureError, Killed):
            has_failed = True
        monkeypatch.undo()
        made: list[int] = []
        assert remembered(cache, "test", 1, "key", lambda made=made: made.append(1) or VALUE) == VALUE
        assert has_failed or not made, "what was said to be kept was kept"
    assert caplog.messages == [], "none was found damaged"


def test_a_table_that_another_library_writes_is_published_when_it_is_whole(tmp_path: Path) -> None:
    path = str(tmp_path / "cache" / "table")
    write_whole(path, lambda draft: Path(draft).write_bytes(b"whole") and None)
    assert read_range(path) == b"whole" and read_range(path, 1, 3) == b"ho"

    def fail(draft: str) -> None:
        Path(draft).write_bytes(b"half")
        raise DataError("the rest is not there")

    with pytest.raises(DataError):
        write_whole(path, fail)
    assert read_range(path) == b"whole"
    assert LocalStore(str(tmp_path / "cache")).list("") == ["table"]


def test_troubles_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=f"^{tmp_path}/none: can't be read "):
        read_range(str(tmp_path / "none"))
    with pytest.raises(InfrastructureError, match=f"^{tmp_path}/file/below: can't be written "):
        write_text(str(tmp_path / "file" / "below"), "x")
    with pytest.raises(DataError, match=r"^ftp:// is not read; use a path, s3:// or gs://"):
        exists("ftp://host/file")
