import logging
import threading
from types import SimpleNamespace

import pytest
from ray._private.ray_logging import global_worker_stdstream_dispatcher as ray_s
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from orchestrator.last_words import LastWords, last_word

LEFT = '@trainwright {"event":"left","time":1.0}'


def words(*pids, seconds=30.0):
    found = LastWords(seconds)
    workers = [
        SimpleNamespace(
            distributed_context=SimpleNamespace(world_rank=rank),
            metadata=SimpleNamespace(node_ip="10.0.0.1", pid=pid),
        )
        for rank, pid in enumerate(pids)
    ]
    found.after_worker_group_start(SimpleNamespace(get_workers=lambda: workers))
    return found


def brings(pid, *lines):
    ray_s.emit({"ip": "10.0.0.1", "pid": str(pid), "lines": list(lines)})


def test_all_that_a_group_printed_is_waited_for(caplog):
    with words(11, 12).waited_for():
        brings(11, "some text", LEFT)
        threading.Timer(0.2, brings, (12, LEFT)).start()
    assert caplog.messages == []
    assert "trainwright-last-words" not in [name for name, _ in ray_s.handlers]


def test_of_a_group_that_failed_only_who_failed_by_itself_is_waited_for(caplog):
    """The other was ended before it could say anything."""
    error = RuntimeError("failed")
    error.worker_failures = {0: UserExceptionWithTraceback(ValueError("x"), ""), 1: RuntimeError("died")}
    with pytest.raises(RuntimeError, match="failed"), words(11, 12, 13).waited_for():
        threading.Timer(0.2, brings, (11, LEFT)).start()
        raise error
    assert caplog.messages == []


def test_what_does_not_come_is_said(caplog):
    with caplog.at_level(logging.WARNING), words(11, 12, seconds=0.0).waited_for():
        brings(12, LEFT)
    assert caplog.messages == [
        "Ray has not brought the last lines of workers 0 within 0 s; logs --rank has them"
    ]


def test_a_worker_says_that_it_has_left_however_its_work_ends(capsys):
    with pytest.raises(ValueError, match="x"), last_word():
        raise ValueError("x")
    assert '"event":"left"' in capsys.readouterr().out
