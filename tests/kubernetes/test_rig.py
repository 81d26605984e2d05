"""The cluster that is kept for a person ends with what started it, even where that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chartkit.helm import binary
from control_plane import wait_until

RIG = Path(__file__).with_name("rig.py")


def processes_with(text: str) -> list[str]:
    """Processes of this machine whose command line holds a text."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if text.encode() in file.read_bytes():
                found.append(file.parent.name)
        except OSError:  # it went meanwhile
            continue
    return found


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_rig_answers_and_takes_all_its_processes_with_it(number):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, str(RIG)], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as rig:
        assert rig.stdout is not None
        kubeconfig = ""
        for line in rig.stdout:
            if line.strip().startswith("export KUBECONFIG=") and not kubeconfig:
                kubeconfig = line.strip().partition("=")[2]
            if "Ctrl-C" in line:
                break
        answer = subprocess.run(
            [binary("kubectl"), "--kubeconfig", kubeconfig, "get", "namespaces", "-o", "name"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "namespace/default" in answer.stdout
        folder = kubeconfig.partition("/control-plane")[0]
        assert processes_with(folder)
        if number == signal.SIGINT:
            os.killpg(rig.pid, number)  # as a terminal does
        else:
            rig.send_signal(number)
        rig.wait(60)
    wait_until("its processes are gone", lambda: not processes_with(folder), seconds=60)
    wait_until("its files are gone", lambda: not Path(folder).exists())
