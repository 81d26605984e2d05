"""Schedules of faults on forked workers: see ``forked_schedules`` for what is real."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "fakes" / "forked_schedules.py"


def summary_of(folder, *arguments):
    answer = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr[-3000:]
    return json.loads(answer.stdout)


@pytest.mark.parametrize(
    "schedules",
    [3, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(3 * 3600)])],
)
def test_no_sample_point_or_state_is_lost_under_any_schedule(tmp_path, schedules):
    found = summary_of(tmp_path, "--schedules", str(schedules), "--seed", "2")
    assert found["faults"] == {} and sum(found["hits"].values()) >= 2 * schedules
    assert found["restarts"] > schedules and found["of these after a notice"] == 0


@pytest.mark.slow  # a quarter of an hour
@pytest.mark.timeout(3 * 3600)
def test_the_worker_that_hangs_is_named_and_nobody_where_nothing_does(tmp_path):
    found = summary_of(tmp_path, "--hangs", "100", "--slow", "100", "--clean", "100")
    assert found["right"] >= 98 and found["named without a hang"] == []
