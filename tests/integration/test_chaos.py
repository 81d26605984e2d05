"""``chaos`` on a real job: real processes, real faults, nothing lost."""

import json
import signal
import time

import psutil
import pytest

pytestmark = pytest.mark.ray


def reported(home, *arguments):
    """The report of a small job's schedule, and what the command exited with."""
    file = home.job(
        training={"max_steps": 600, "evaluate_every": 200},
        recovery={"hang_timeout": 4},
    )
    report = home.folder / "report.json"
    answer = home.call("chaos", str(file), "--report", str(report), *arguments, timeout=3000)
    assert report.exists(), answer.stdout + answer.stderr
    return json.loads(report.read_text()), answer


def assert_nothing_was_lost(found, answer, hits):
    assert answer.returncode == 0, answer.stdout + answer.stderr
    sums = found["sums"]
    assert sums["faults"] == hits and sums["samples"] > 0 and sums["points"] > 600
    nothing = ("samples_doubled", "samples_missed", "points_lost", "points_doubled", "points_other")
    assert [sums[name] for name in (*nothing, "states_unequal", "left_behind")] == [0] * 7
    assert all(run["unequal_elements"] == 0 and not run["broken"] for run in found["runs"])


@pytest.mark.slow
def test_a_run_under_a_kill_a_notice_and_a_hang_loses_nothing(home):
    found, answer = reported(home, "--faults", "kill,hang,notice", "--count", "3", "--per-run", "3")
    assert_nothing_was_lost(found, answer, 3)
    [run] = found["runs"]
    by_kind = {one["fault"]["kind"]: one for one in run["faults"]}
    assert run["attempts"] == 4 and all(one["restarts"] == 1 for one in by_kind.values())
    assert by_kind["hang"]["blamed"] == [by_kind["hang"]["fault"]["rank"]]
    assert by_kind["notice"]["replayed"] == 0
    assert "3 faults in 1 runs: samples 0 doubled and 0 missed" in answer.stdout


@pytest.mark.slow  # minutes
@pytest.mark.timeout(3000)
def test_runs_under_every_kind_of_fault_lose_nothing(home):
    kinds = "kill,hang,notice,slow,disk,mlflow"
    found, answer = reported(home, "--faults", kinds, "--count", "12", "--seed", "2")
    assert_nothing_was_lost(found, answer, 12)
    assert {one["fault"]["kind"] for run in found["runs"] for one in run["faults"]} == set(kinds.split(","))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_group_that_shrinks_and_grows_loses_nothing(home):
    """By notice and by room that comes; the metrics of a group of another size agree to the tolerance that is said."""
    file = home.job(
        model={"family": "mlp", "size": "debug"},
        training={"max_steps": 3000},
        scaling={"workers": {"min": 1, "max": 2}},
        tracking={"kind": "none"},
    )
    report = home.folder / "report.json"
    options = ("--faults", "resize", "--count", "2", "--per-run", "2", "--seed", "14")
    answer = home.call("chaos", str(file), *options, "--report", str(report), timeout=1500)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    [run] = json.loads(report.read_text())["runs"]
    assert run["step"] == 3000 and run["attempts"] == 3
    assert run["samples_doubled"] == run["samples_missed"] == 0
    assert [one["fault"]["way"] for one in run["faults"]] == ["fewer", "more"]
    assert [(one["restarts"], one["replayed"]) for one in run["faults"]] == [(1, 0)] * 2
    assert run["distance"] < 1e-3 and not run["broken"]


@pytest.mark.slow
def test_told_to_end_it_takes_with_it_what_it_started(own_tmpdir):
    home = own_tmpdir
    file = home.job(training={"max_steps": 100_000})
    command = home.start("chaos", str(file), "--faults", "mlflow", "--count", "1")
    wait_until(lambda: any("orchestrator.chaos.driver" in line for line in processes_of(home)))
    command.terminate()
    command.stdout.read()
    assert command.wait(timeout=120) == 128 + signal.SIGTERM
    command.stdout.close()
    wait_until(lambda: not processes_of(home))


def processes_of(home):
    """Command lines of what runs with files in the home's folder for temporary ones."""
    lines = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
    return [line for line in lines if home.environment["TMPDIR"] in line]


def wait_until(is_so, seconds=120):
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_wrong_usage_is_one_sentence(home):
    file = str(home.job())
    for arguments, said in (
        (("--faults", "kill,flood"), "--faults: 'flood' is no fault of kill, hang, notice, slow, disk"),
        (("--count", "0"), "--count 0, --per-run 1: a schedule has at least one fault"),
        (("--set", "training.max_steps=1"), "training.max_steps: the job takes 1 steps"),
    ):
        answer = home.call("chaos", file, *arguments)
        assert answer.returncode == 2 and said in answer.stderr and answer.stderr.count("\n") == 1, answer
