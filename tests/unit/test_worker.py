"""What a worker says of an attempt before it trains."""

from types import SimpleNamespace

from orchestrator import worker
from orchestrator.records import RunRecord


def test_what_was_lost_is_said_where_there_is_no_checkpoint(tmp_path, caplog):
    rank = SimpleNamespace(number=0, plan=SimpleNamespace(storage=str(tmp_path)))
    with caplog.at_level("INFO", logger="orchestrator"):
        assert worker._go_on_from(None, rank, None, 1, None) == (0, ())
    assert caplog.text == ""
    RunRecord(str(tmp_path)).set_reached(7)
    with caplog.at_level("INFO", logger="orchestrator"):
        worker._go_on_from(None, rank, None, 2, None)
    assert "attempt 2 begins anew, since there is no checkpoint; steps 1 to 7 are taken again" in caplog.text


def test_steps_behind_a_checkpoint_are_named(tmp_path):
    RunRecord(str(tmp_path)).set_reached(7)
    assert worker._taken_again(str(tmp_path), 4) == "; steps 5 to 7 are taken again"
    assert worker._taken_again(str(tmp_path), 7) == worker._taken_again(str(tmp_path), 9) == ""
