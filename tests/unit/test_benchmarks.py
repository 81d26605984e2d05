"""The benchmarks of the recipes run: a few steps each, so that a change of the loop can't leave them behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FEW = ("--threads", "1", "--set", "training.max_steps=3", "--set", "training.schedule.warmup_steps=0")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "wanted"),
    [
        ("quick_train.py", ("examples/digits-cnn.yaml",), "mean"),
        ("gan_digits.py", (), "shares"),
        ("anomaly_digits.py", (), "auroc"),
        ("binary_auroc.py", ("examples/cnn-spikes.yaml",), "logistic_regression_auroc"),
        ("binary_auroc.py", ("examples/recommend-imports.yaml",), "module_rate_auroc"),
    ],
)
def test_a_benchmark_prints_its_numbers(script, arguments, wanted, tmp_path):
    environment = os.environ | {"TRAINWRIGHT_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    few = (*FEW, "--set", "training.epochs=null")
    command = [sys.executable, f"benchmarks/{script}", *arguments, *few]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert wanted in json.loads(done.stdout.splitlines()[-1])
