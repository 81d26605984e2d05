"""What a worker says of an attempt before it trains."""

import dataclasses
from types import SimpleNamespace

import pytest

from orchestrator import going_on, worker
from orchestrator.records import RunRecord
from orchestrator.recovery.beats import Beat, heart
from orchestrator.recovery.hangs import HangCheck


def test_what_was_lost_is_said_where_there_is_no_checkpoint(tmp_path, caplog):
    rank = SimpleNamespace(number=0, plan=SimpleNamespace(storage=str(tmp_path)))
    with caplog.at_level("INFO", logger="orchestrator"):
        assert going_on.go_on_from(None, rank, None, 1, None) == (0, ())
    assert caplog.text == ""
    RunRecord(str(tmp_path)).set_reached(7)
    with caplog.at_level("INFO", logger="orchestrator"):
        going_on.go_on_from(None, rank, None, 2, None)
    assert "attempt 2 begins anew, since there is no checkpoint; steps 1 to 7 are taken again" in caplog.text


def test_steps_behind_a_checkpoint_are_named(tmp_path):
    RunRecord(str(tmp_path)).set_reached(7)
    assert going_on._taken_again(str(tmp_path), 4) == "; steps 5 to 7 are taken again"
    assert going_on._taken_again(str(tmp_path), 7) == going_on._taken_again(str(tmp_path), 9) == ""


def test_who_leaves_after_an_error_does_not_hang():
    beat = Beat(count=9, doing="what is due after step 4", may_take_long=False, longest_step=0.1, attempt=1)
    heart.beat = beat
    with pytest.raises(OSError, match="No space left"), worker.leaving():
        raise OSError("No space left on device")
    check, other = HangCheck(60), dataclasses.replace(beat, count=10)
    check.longest_stillness({0: heart.beat, 1: other}, 0.0)
    assert check.longest_stillness({0: heart.beat, 1: other}, 100.0) == 0
