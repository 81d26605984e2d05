import threading
import time

import pytest

from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState, RunStatus, new_run_id


def status(state, **fields):
    return RunStatus(run_id="r", state=state, submitted_at=time.time(), **fields)


def test_a_final_state_is_never_overwritten(tmp_path):
    record = RunRecord(str(tmp_path))
    record.set_state(status(RunState.RUNNING))
    first = record.end(status(RunState.SUCCEEDED, reason=EndReason.COMPLETED))
    second = record.end(status(RunState.FAILED, reason=EndReason.DRIVER_LOST))
    record.set_state(status(RunState.RUNNING))
    assert first.state is second.state is record.status().state is RunState.SUCCEEDED


def test_of_many_writers_one_ends_the_run(tmp_path):
    record = RunRecord(str(tmp_path))
    record.set_state(status(RunState.RUNNING))
    barrier, ends = threading.Barrier(16), []

    def end(index):
        barrier.wait()
        ends.append(
            record.end(status(RunState.FAILED, reason=EndReason.USER_ERROR, message=str(index))).message
        )

    threads = [threading.Thread(target=end, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ends)) == 1


def test_launches_are_counted_and_stops_remembered(tmp_path):
    record = RunRecord(str(tmp_path))
    assert record.newest_launch() == 0 and record.status() is None
    record.set_state(status(RunState.PENDING))
    record.set_state(status(RunState.PENDING, launch=2))
    assert record.newest_launch() == 2
    record.ask_to_stop(2)
    record.ask_to_stop(2)
    assert record.stop_was_asked(2) and not record.stop_was_asked(1)


def test_ids_are_safe_names_and_differ():
    ids = {new_run_id("a-job") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(i) <= 63 and i.replace("-", "").isalnum() and i.islower() for i in ids)


@pytest.mark.parametrize("state", list(RunState))
def test_three_states_are_final(state):
    assert state.is_final == (state in ("succeeded", "failed", "stopped"))
