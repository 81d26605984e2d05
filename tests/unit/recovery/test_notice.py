import os
import signal
import time

import pytest
from ray.train import PreemptionInfo

from orchestrator.recovery import notice
from orchestrator.recovery.notice import NoticeBoard, listen_for_sigterm, said_by_ray


@pytest.fixture(autouse=True)
def told_nothing(monkeypatch):
    """This process is no worker of Ray Train's."""
    monkeypatch.setattr(notice, "_terminations", [])
    monkeypatch.setattr(notice, "_info_from_ray", lambda: None)
    monkeypatch.setattr(notice, "_own_rank", lambda: 0)


def test_a_file_that_appears_is_a_notice(tmp_path):
    file = tmp_path / "notice"
    board = NoticeBoard(str(file))
    assert board.said() == "" and not board.file_says_so
    file.touch()
    assert board.said() == f"{file} says so" and board.file_says_so


def test_a_file_that_was_there_before_is_none_until_it_is_written_anew(tmp_path):
    file = tmp_path / "notice"
    file.touch()
    os.utime(file, ns=(1, 1))
    board = NoticeBoard(str(file))
    assert board.said() == ""
    file.write_text("again")
    assert board.said()
    file.unlink()
    assert board.said() == ""


def test_no_file_is_looked_for_where_none_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert NoticeBoard("").said() == ""


def test_sigterm_is_a_notice_and_ends_nothing():
    before = signal.getsignal(signal.SIGTERM)
    try:
        listen_for_sigterm()
        board = NoticeBoard("")
        assert board.said() == ""
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 5
        while not board.said() and time.monotonic() < deadline:
            pass
        assert board.said() == "its process got SIGTERM"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_drained_node_is_a_notice_to_the_ranks_on_it():
    info = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"node": [1, 3]})
    assert [said_by_ray(info, rank) for rank in range(4)] == ["", "its node is drained"] * 2
    until = PreemptionInfo(deadline_ms=1_000, preempted_node_to_ranks={"node": [0]})
    at = time.strftime("%H:%M:%S", time.localtime(1))
    assert said_by_ray(until, 0) == f"its node is drained, until {at}"
    assert said_by_ray(None, 0) == ""
