"""A head that is told that it will be taken away: the group leaves, and no other one starts there."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.head_watch import HeadWatch


class Group:
    """A worker group that writes down what its workers are asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        ask = SimpleNamespace(remote=self.asked.append)
        self._workers = [SimpleNamespace(actor=SimpleNamespace(ask_to_leave=ask))] * 2

    def get_workers(self) -> list[Any]:
        return self._workers


@pytest.fixture
def notice() -> threading.Event:
    return threading.Event()


def test_the_group_is_asked_once_and_the_next_one_waits(notice, capfd):
    watch, group = HeadWatch(notice.is_set, hold_seconds=1.0), Group()
    watch.before_worker_group_start(None)
    watch.after_worker_group_training_start(group)
    watch.after_worker_group_poll_status(None)
    assert group.asked == []
    notice.set()
    began = time.monotonic()
    for _ in range(3):
        watch.after_worker_group_poll_status(None)
    assert group.asked == ["the head will be taken away"] * 2
    watch.before_worker_group_shutdown(group)
    watch.before_worker_group_start(None)
    assert time.monotonic() - began >= 1.0
    assert "the head will be taken away" in capfd.readouterr().out
    # it is still there: the notice came to nothing
    watch.before_worker_group_start(None)
    watch.after_worker_group_training_start(other := Group())
    watch.after_worker_group_poll_status(None)
    assert other.asked == []


def test_no_group_starts_where_the_notice_comes_before_it(notice):
    watch = HeadWatch(notice.is_set, hold_seconds=0.5)
    notice.set()
    began = time.monotonic()
    watch.before_worker_group_start(None)
    assert time.monotonic() - began >= 0.5
