"""What a person copies from the README, the quickstart and the example notebook, run as it stands there."""

import json
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.sdk import make_plan

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def quickstart_commands():
    page = (ROOT / "docs" / "quickstart.md").read_text()
    return re.findall(r"^trainwright (.*?)(?:  .*)?$", page, re.MULTILINE)


def test_the_quickstarts_commands_as_they_stand_there(home):
    run = "RUN"
    verbs = []
    for command in quickstart_commands():
        verb, *arguments = shlex.split(command.replace("RUN", run))
        verbs.append(verb)
        if verb == "ui":
            assert serves(home, *arguments)
            continue
        answer = home.call(verb, *arguments)
        assert answer.returncode == 0, f"{command}: {answer.stdout[-3000:]}{answer.stderr}"
        if verb == "run":
            [newest] = json.loads(home.call("list", "--json").stdout)
            run = newest["run_id"]
        if verb in ("list", "status", "logs"):
            assert run in answer.stdout or "epoch" in answer.stdout
    assert verbs == ["init", "plan", "run", "list", "status", "logs", "ui"]


def serves(home, *arguments):
    """Whether the dashboard gives its address, serves and ends with Ctrl-C. Its usual port may be taken where tests run."""
    with home.start("ui", *arguments, "--port", "0") as process:
        address = process.stdout.readline()
        is_up = any("startup complete" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    return is_up and "http://127.0.0.1:" in address and process.returncode == 0


@pytest.mark.slow
def test_the_example_notebook_runs_from_its_first_cell_to_its_last(home):
    """In a plain process: then a table is lines. tests/unit/test_progress.py has the table of a notebook's kernel."""
    cells = json.loads((EXAMPLES / "digits.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    answer = subprocess.run(
        [sys.executable, "-c", code],
        cwd=EXAMPLES,
        env=home.environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    total = make_plan(EXAMPLES / "digits-mlp.yaml", overrides=["training.epochs=10"]).total_steps
    shown = answer.stdout
    assert f"{total} steps" in shown and f"succeeded  step {total}/{total}" in shown
    assert f"saved the checkpoint of step {total}" in shown
    assert re.search(r"0\.9\d* of the held-out digits are right", shown)


@pytest.mark.slow
def test_the_demo_as_make_runs_it(home):
    calls = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    program, verb, job = calls.splitlines()[-1].split()
    assert (program, verb) == (".venv/bin/trainwright", "run")
    answer = home.call(verb, str(ROOT / job))
    assert answer.returncode == 0, answer.stderr
    assert f"took all {make_plan(ROOT / job).total_steps} steps" in answer.stdout
