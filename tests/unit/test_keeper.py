"""Real processes stand for a driver: a script that begins, and then does what a test says."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from data_jobs import job_of, plan_of
from programmable_server import wait_until

from orchestrator.keeper import keep
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState, RunStatus

DRIVER = """
import os, signal, sys, time
from orchestrator.keeper import end_with_keeper
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState, RunStatus

end_with_keeper()
record = RunRecord(sys.argv[1]).taken_over(1)
number = record.newest_driver(1)
exec(sys.argv[2])
"""
ENDS = """
status = RunStatus(run_id="r", state=RunState.STARTING)
record.end(status.ended(RunState.FAILED, EndReason.USER_ERROR, "x", ended_at=1.0))
sys.exit(3)
"""
DIES = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture(autouse=True)
def own_signals():
    held = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in held.items():
        signal.signal(number, handler)


@pytest.fixture
def kept(tmp_path, capfd):
    def run(does, max_failures=2, pod=None):
        job = job_of({"train": {"kind": "builtin", "name": "iris"}}, recovery={"max_failures": max_failures})
        plan = plan_of(job, tmp_path)
        RunRecord(plan.storage).set_state(RunStatus(run_id="r", state=RunState.STARTING))
        run.record = RunRecord(plan.storage)
        code = keep(
            plan,
            1,
            [sys.executable, "-c", DRIVER, plan.storage, does],
            pod,
            first_pause=0.01,
            hold_seconds=0.1,
        )
        lines = capfd.readouterr().out.splitlines()
        return code, [json.loads(line.partition(" ")[2]) for line in lines]

    return run


def test_one_that_is_killed_is_started_again(kept):
    code, told = kept(f"if number == 1: {DIES}\n{ENDS}")
    assert code == 3 and kept.record.newest_driver(1) == 2
    [incident] = told
    assert (incident["reason"], incident["message"]) == (
        EndReason.DRIVER_LOST,
        "the driver was lost (SIGKILL)",
    )
    assert (incident["failure"], incident["max_failures"], incident["retry"]) == (1, 2, True)


def test_no_oftener_than_the_job_allows_failures(kept):
    code, told = kept(DIES)
    assert code == 137 and kept.record.newest_driver(1) == 3
    assert [incident["retry"] for incident in told] == [True, True, False]


def test_one_that_is_lost_with_its_pod_is_not_counted_but_once(kept):
    """A pod that is still there after its notice was not taken away."""
    code, told = kept(f"record.tell_that_head_leaves(1, 'p'); {DIES}", max_failures=1, pod="p")
    assert code == 137 and kept.record.newest_driver(1) == 3
    assert [(one["failure"], one["is_counted"], one["retry"]) for one in told] == [
        (0, False, True),
        (1, True, True),
        (2, True, False),
    ]
    assert told[0]["message"] == "the driver was lost (SIGKILL, as its pod will be taken away)"


def test_a_notice_of_another_pod_excuses_nothing(kept):
    _, told = kept(f"record.tell_that_head_leaves(1, 'p'); {DIES}", max_failures=0, pod="q")
    assert [(one["failure"], one["is_counted"], one["retry"]) for one in told] == [(1, True, False)]


@pytest.mark.parametrize(
    ("does", "code"),
    [
        (ENDS, 3),  # it could say how its launch ends
        (f"record.ask_to_stop(1); {DIES}", 137),  # somebody wanted it to end
        ("os.unlink(record.storage + '/launches/1/drivers/1'); sys.exit(2)", 2),  # it has not even begun
    ],
)
def test_one_that_was_not_lost_is_not(kept, does, code):
    assert kept(does) == (code, [])


def test_a_stop_is_the_driver_s_to_follow(kept):
    """Ray signals both; the keeper waits for what the driver does about it."""
    stop = threading.Timer(1.0, signal.raise_signal, (signal.SIGTERM,))
    stop.start()
    assert kept(f"time.sleep(3); {DIES}") == (137, [])


def test_a_driver_ends_with_its_keeper(tmp_path):
    job = job_of({"train": {"kind": "builtin", "name": "iris"}})
    plan = plan_of(job, tmp_path)
    path = tmp_path / "plan.json"
    path.write_text(plan.model_dump_json())
    keeper = (
        "import sys; from orchestrator.keeper import keep; from orchestrator.planning.plan import Plan\n"
        "keep(Plan.model_validate_json(open(sys.argv[1]).read()), 1, sys.argv[2:])"
    )
    waits = "open(record.storage + '/pid', 'w').write(str(os.getpid())); time.sleep(600)"
    command = [sys.executable, "-c", keeper, str(path), sys.executable, "-c", DRIVER, plan.storage, waits]
    pid = tmp_path.joinpath(plan.storage, "pid")
    with subprocess.Popen(command) as process:
        wait_until(lambda: pid.exists() and pid.read_text(), "the driver", seconds=60)
        process.kill()
    driver = Path("/proc", pid.read_text(), "stat")
    wait_until(lambda: not _lives(driver), "its end", seconds=30)


def _lives(stat):
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
