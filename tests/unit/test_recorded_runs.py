"""What pages show of runs is what those runs are, and the commands they name are commands."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import recorded_runs
from typer.main import get_command

from orchestrator import cli
from orchestrator.cli.app import app
from orchestrator.sdk import make_plan

ROOT = Path(__file__).parents[2]
RECORDED = recorded_runs.recorded()


def named_commands(page):
    """Every line of a page's blocks that calls trainwright, without what is said of it."""
    for block in re.findall(r"^```\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            if line.startswith("trainwright "):
                called = line.split("  ")[0]
                for each in called.removeprefix("trainwright ").split(" | "):  # "list | status RUN" names two
                    yield f"trainwright {each}"


COMMANDS = {
    *named_commands(ROOT / "README.md"),
    *named_commands(ROOT / "docs" / "quickstart.md"),
    *(call.command for call in RECORDED if call.command.startswith("trainwright ")),
}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_commands_that_pages_show_are_commands_with_those_options(command):
    _, verb, *arguments = shlex.split(command)
    get_command(app).commands[verb].make_context(verb, arguments)


def planned_job(call):
    """The job file of a recorded run; None where the command is no run."""
    if call.command == "make demo":
        calls = subprocess.run(
            ["make", "--no-print-directory", "--dry-run", "demo"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return calls.splitlines()[-1].split()[-1]
    return call.command.split()[-1] if call.command.startswith("trainwright run ") else None


def test_recorded_runs_took_the_steps_that_their_jobs_have(monkeypatch, tmp_path):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    exec(compile(recorded_runs.program_of_own_files(), "your-own-files.md", "exec"), {})
    held = []
    for call in RECORDED:
        if call.command.startswith("trainwright init "):
            monkeypatch.setattr("sys.argv", shlex.split(call.command))
            with pytest.raises(SystemExit):
                cli.main()
        if job := planned_job(call):
            plan = make_plan(job)
            steps = {int(total) for total in re.findall(r"^step \d+/(\d+)", call.shown, re.MULTILINE)}
            assert plan.batch_equation in call.shown, f"{job}: old; run make recorded"
            assert steps == {plan.total_steps}, f"{job}: old; run make recorded"
            assert f"took all {plan.total_steps:,} steps" in call.shown
            held.append((call.page.name, Path(job).stem))
    assert held == [
        ("README.md", "digits-cnn"),
        ("first-hour.md", "digits-cnn"),
        *(("first-hour.md", name) for name in ("churn", "book", "load", "pets")),
    ]


def test_of_a_runs_output_a_page_shows_what_a_person_looks_at_first():
    steps = "".join(f"step {step}/9  train/loss 1\n" for step in range(1, 10))
    output = (
        f"run        x-1  (digest 1)\nbatch      global 64\nstorage    /a\n\nx-1: starting\n{steps}run  x-1\n"
    )
    assert recorded_runs.shortened(output).splitlines() == [
        "...",
        "batch      global 64",
        "...",
        "",
        "x-1: starting",
        "step 1/9  train/loss 1",
        "...",
        "step 8/9  train/loss 1",
        "step 9/9  train/loss 1",
        "run  x-1",
    ]


def test_no_page_shows_a_folder_or_a_fault_of_whoever_recorded_it():
    for call in RECORDED:
        assert not re.search(r"/tmp/|/root|/home/|Traceback|Error", call.shown), (
            f"{call.page.name}: {call.command}"
        )
