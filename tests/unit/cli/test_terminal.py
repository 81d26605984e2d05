"""What a person sees and presses, in a pseudo-terminal."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import followed_run
import pytest
from terminal import Terminal

from orchestrator.cli import child_process

EVENTS = [
    {"event": "stage", "doing": "starting Ray"},
    {"event": "attempt", "attempt": 1, "start_step": 0, "total_steps": 690},
    {"event": "metrics", "step": 12, "values": {"train/loss": 1.5, "train/epoch": 0.5}},
]
COLOR = re.compile(r"\x1b\[[\d;]*(?:3[0-7]|4[0-7]|9[0-7]|38;|48;)[\d;]*m")


@pytest.fixture
def view(tmp_path):
    """Opens a terminal with the view of a run; ``view.stops()`` are the wishes to stop that came to the run."""
    file = tmp_path / "events.json"
    file.write_text(json.dumps(EVENTS))
    opened = []

    def start(*arguments, **options):
        opened.append(Terminal([sys.executable, followed_run.__file__, str(file), *arguments], **options))
        return opened[-1]

    def stops():
        path = tmp_path / "events.json.stops"
        return path.read_text().split() if path.exists() else []

    start.stops = stops
    yield start
    for terminal in opened:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()


def test_ctrl_c_stops_gracefully_and_twice_at_once(view):
    terminal = view()
    terminal.wait_for("12/690")
    terminal.press("\x03")
    terminal.wait_for("finishing the step and saving")
    assert view.stops() == ["gracefully"]
    terminal.press("\x03")
    assert terminal.exit_code() == 5
    assert view.stops() == ["gracefully", "now"]
    assert "stopped at once" in terminal.shown and "trainwright resume digits-abc" in terminal.shown
    assert "deep.py" not in terminal.shown and "ValueError: of a library" in terminal.shown


@pytest.mark.parametrize("columns", [60, 140])
def test_the_view_is_as_wide_as_the_terminal(view, columns):
    terminal = view(columns=columns)
    terminal.wait_for("12/690")
    assert len(re.findall("╭[^╮]*╮", re.sub(r"\x1b\[[\d;]*m", "", terminal.shown))[-1]) == columns


@pytest.mark.parametrize(("environment", "is_colored"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_heard(view, environment, is_colored):
    terminal = view(**environment)
    terminal.wait_for("12/690")
    assert bool(COLOR.search(terminal.shown)) is is_colored


def test_a_terminal_that_can_not_move_gets_lines(view):
    terminal = view(TERM="dumb")
    terminal.wait_for("step 12/690")
    assert "starting Ray (" in terminal.shown and "\x1b" not in terminal.shown


def test_a_closed_terminal_ends_the_view_and_asks_nothing_of_the_run(view):
    terminal = view()
    terminal.wait_for("12/690")
    terminal.close()
    assert terminal.process.wait(60) == -signal.SIGHUP
    assert view.stops() == []


def test_json_is_events_a_line_and_the_status_at_the_end(view):
    terminal = view("--json")
    terminal.wait_for('"metrics"')
    terminal.press("\x03")
    terminal.wait_for("finishing the step")
    terminal.press("\x03")
    assert terminal.exit_code() == 5
    assert view.stops() == ["gracefully", "now"]
    lines = [json.loads(line.lstrip("^C")) for line in terminal.shown.splitlines() if "{" in line]
    assert [line["event"] for line in lines][:3] == ["stage", "attempt", "metrics"]
    assert (lines[-1]["event"], lines[-1]["state"]) == ("status", "stopped")


SERVER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; print('serving', flush=True); time.sleep(600)"])
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.parametrize("end", ["SIGTERM", "SIGHUP", "ctrl-c", "closed terminal"])
def test_a_server_and_its_workers_end_with_the_command_that_started_them(end):
    code = f"import sys; from orchestrator.cli.child_process import serve; sys.exit(serve([sys.executable, '-c', {SERVER!r}], {{}}))"
    terminal = Terminal([sys.executable, "-c", code], PYTHONPATH=os.pathsep.join(sys.path))
    terminal.wait_for("serving")
    worker = int(re.search(r"\d+", terminal.shown)[0])
    if end == "ctrl-c":
        terminal.press("\x03")
    elif end == "closed terminal":
        terminal.close()
    else:
        terminal.process.send_signal(getattr(signal, end))
    assert terminal.process.wait(60) == 0
    deadline = time.monotonic() + 30
    while subprocess.run(
        ["ps", "-o", "stat=", "-p", str(worker)], capture_output=True, text=True
    ).stdout.strip("Z+ls\n"):
        assert time.monotonic() < deadline, "the server's worker is orphaned"
        time.sleep(0.05)


def test_a_server_that_is_told_to_end_while_it_starts_ends(monkeypatch):
    started = []

    class Interrupted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    assert child_process.serve([sys.executable, "-c", "import time; time.sleep(600)"], os.environ) == 0
    assert started[0].returncode is not None


def test_a_server_that_ends_by_itself_gives_its_exit_code():
    assert child_process.serve([sys.executable, "-c", "raise SystemExit(3)"], os.environ) == 3
