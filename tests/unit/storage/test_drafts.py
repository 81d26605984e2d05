import subprocess
import sys
import time

import pytest

from orchestrator.storage import drafts, store_at
from orchestrator.storage.drafts import draft_name, is_draft, sweep

KILLED = """
import os, signal, sys
from orchestrator.storage import store_at

def chunks():
    yield b"half of it"
    os.kill(os.getpid(), signal.SIGKILL)

store_at(sys.argv[1]).write_chunks("part-000001.parquet", chunks())
"""


def left_by_a_killed_writer(folder):
    assert subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False).returncode == -9
    [draft] = [path for path in folder.iterdir() if is_draft(path.name)]
    return draft


def test_what_a_killed_writer_left_goes_as_the_next_one_writes_there(tmp_path):
    draft = left_by_a_killed_writer(tmp_path)
    store = store_at(str(tmp_path))
    assert store.list("") == [] and draft.exists()  # who only reads removes nothing
    store.write("elsewhere/x", b"x")
    assert draft.exists()
    store.write("x", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "x"]


def test_the_draft_of_one_who_lives_stays(tmp_path):
    with store_at(str(tmp_path)).draft("x") as draft:
        draft.write_bytes(b"half")
        store_at(str(tmp_path)).write("y", b"y")
        assert draft.exists()
    assert (tmp_path / "x").read_bytes() == b"half"


def test_a_number_that_another_process_has_by_now_does_not_save_a_draft(tmp_path, monkeypatch):
    draft = tmp_path / draft_name("x")
    draft.touch()
    sweep(tmp_path)
    assert draft.exists()
    monkeypatch.setattr(drafts, "start_ticks", lambda pid: int(time.time()))
    sweep(tmp_path)
    assert not draft.exists()


@pytest.mark.parametrize(
    "name",
    [
        ".x.00000000-{dead}-1-00000000.tmp",  # of another machine, or of another container on this one
        ".x.{place}-{dead}-0-00000000.tmp",  # of a system that does not say when a process started
        ".x.{place}-{dead}-1-00000000.tmp.kept",
        ".x.0123abcd.tmp",  # a person's own
    ],
)
def test_what_is_not_known_to_be_left_stays(tmp_path, name):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    path = tmp_path / name.format(place=draft_name("x").split(".")[2].split("-")[0], dead=dead.pid)
    path.touch()
    sweep(tmp_path)
    assert path.exists()


def test_a_folder_that_is_not_there_or_not_ours_is_nothing_to_sweep(tmp_path):
    sweep(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []
