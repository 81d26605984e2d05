"""``chaos`` on a real job: real processes, real faults, nothing lost."""

import json

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


def test_wrong_usage_is_one_sentence(home):
    file = str(home.job())
    for arguments, said in (
        (("--faults", "kill,flood"), "--faults: 'flood' is no fault of kill, hang, notice, slow, disk"),
        (("--count", "0"), "--count 0, --per-run 1: a schedule has at least one fault"),
        (("--set", "training.max_steps=1"), "training.max_steps: the job takes 1 steps"),
    ):
        answer = home.call("chaos", file, *arguments)
        assert answer.returncode == 2 and said in answer.stderr and answer.stderr.count("\n") == 1, answer
