"""What rank 0 leaves in the run's records while it trains: whoever lists runs reads no output."""

import time

from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.worker import _Mailbox


class Plan:
    def __init__(self, storage):
        self.storage = str(storage)


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_record_tells_step_metrics_and_addresses_until_the_end(tmp_path):
    record = RunRecord(str(tmp_path))
    record.set_state(RunStatus(run_id="r", state=RunState.STARTING, total_steps=9))
    mailbox = _Mailbox(Plan(tmp_path), 1)
    try:
        mailbox.tracked_at("http://mlflow/#/1")
        mailbox.reached(3, 2, {"train/loss": 0.5, "val/loss": 0.7})
        mailbox.reached(6, 2, {"train/loss": 0.4, "train/grad_norm": float("nan")})
        wait_until(lambda: record.status(1).step == 6)
        status = record.status(1)
        assert (status.state, status.attempt, status.total_steps) == (RunState.RUNNING, 2, 9)
        assert status.metrics == {"train/loss": 0.4, "val/loss": 0.7}
        assert status.urls == {"mlflow": "http://mlflow/#/1"}
        end = status.model_copy(update={"state": RunState.STOPPED, "reason": EndReason.STOPPED_BY_USER})
        assert (
            record.end(end.model_copy(update={"urls": {}})) == end
        )  # who ends it need not know the addresses
        mailbox.reached(9, 2, {})
        wait_until(lambda: record.read("launches/1/state.json").count(b'"step": 9'))
        assert record.status(1) == end
    finally:
        mailbox.close()


def test_what_was_told_last_is_written_before_the_worker_ends(tmp_path):
    record = RunRecord(str(tmp_path))
    record.set_state(RunStatus(run_id="r", state=RunState.STARTING, total_steps=9))
    mailbox = _Mailbox(Plan(tmp_path), 1)
    mailbox.tracked_at("http://mlflow/#/1")
    mailbox.reached(9, 1, {"train/loss": 0.5})
    mailbox.close()
    status = record.status(1)
    assert (status.step, status.urls) == (9, {"mlflow": "http://mlflow/#/1"})
