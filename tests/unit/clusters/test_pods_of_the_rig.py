"""What stands in for a container engine in the tests on a real API server."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pod_processes
import pytest
import wrong_clock
from node_agent import expanded
from pod_processes import Mount, of_the_image


def test_a_volume_hides_nothing_of_the_image(tmp_path, monkeypatch):
    """Python, its packages or this checkout may lie below a folder that every pod has a volume at."""
    below, beside = tmp_path / "tmp" / "packages", tmp_path / "opt"
    below.mkdir(parents=True)
    beside.mkdir()
    monkeypatch.setattr(pod_processes, "_IMAGE", {below, beside, tmp_path / "tmp" / "none"})
    volume = Mount(Path("/somewhere"), str(tmp_path / "tmp"))
    assert of_the_image([volume]) == [Mount(below, str(below))]
    assert of_the_image([]) == []


@pytest.mark.parametrize(
    ("text", "becomes"),
    [
        ("$(NAME):5000", "train:5000"),
        ("$(NAME)$(NAME)", "traintrain"),
        ("$(OTHER) $NAME ${NAME}", "$(OTHER) $NAME ${NAME}"),
        ("$$(NAME) $$$(NAME) $$", "$(NAME) $train $"),
    ],
)
def test_variables_stand_in_commands_as_kubernetes_puts_them_there(text, becomes):
    assert expanded(text, {"NAME": "train"}) == becomes


@pytest.mark.parametrize("ahead", [120, -120])
def test_a_wrong_clock_tells_another_time_and_waits_as_long(tmp_path, ahead):
    """In a process and in what it starts."""
    code = (
        "import time, subprocess; began = time.monotonic(); time.sleep(0.05); print(time.time(), time.monotonic() - began);"
        "print(subprocess.run(['date', '+%s'], capture_output=True, text=True).stdout)"
    )
    wrong = {**os.environ, **wrong_clock.ahead_by(ahead, tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=wrong, check=True)
    told, waited, of_a_child = map(float, done.stdout.split())
    assert abs(told - time.time() - ahead) < 30
    assert abs(of_a_child - time.time() - ahead) < 30
    assert 0.05 <= waited < 30
