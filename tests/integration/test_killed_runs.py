"""Runs killed at any moment come to the end, the metrics and the MLflow record of a run that nothing happened to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "fakes" / "killed_runs.py"


@pytest.mark.slow  # minutes for four, hours for all
@pytest.mark.parametrize("kills", [4, pytest.param(300, marks=pytest.mark.timeout(6 * 3600))])
def test_no_point_is_lost_or_there_twice(tmp_path, kills):
    answer = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), "--kills", str(kills)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr[-3000:]
    found = json.loads(answer.stdout)
    assert found["kills"] >= kills and found["points"] > 200 and found["faults"] == {}
