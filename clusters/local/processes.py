"""The driver of a launch as a process of this machine: started, found again by later commands, ended, cleared up after.

A process is known by its number and the moment it started, so that a later one with the same number is not taken
for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_LOOK_SECONDS = 0.02
_START_SECONDS = 30.0
_END_SECONDS = 10.0
_UNREADABLE = (OSError, ValueError, KeyError, TypeError)
"""What reading a small file of ours raises where it is not there, half-written or somebody else's."""


class DriverProcess:
    """One launch's driver.

    Args:
        folder: The launch's folder: holds ``claim.json`` from the first submit on, ``process.json`` from the start on,
            and ``driver.log``, the driver's output.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = folder / "driver.log"

    def start(self, command: Sequence[str], cwd: str) -> dict[str, int | None]:
        """Start it, detached; returns what ``process.json`` must hold for it to be found again."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return {"pid": process.pid, "started": _start_ticks(process.pid)}

    def wait_for_start(self) -> None:
        """Wait until whoever claimed the launch has written its first state."""
        deadline = time.monotonic() + _START_SECONDS
        while not (self._folder / "state.json").exists() and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)

    @property
    def pid(self) -> int | None:
        """Its number, while it lives."""
        try:
            known = json.loads((self._folder / "process.json").read_text())
            pid, started = int(known["pid"]), known["started"]
        except _UNREADABLE:
            return None
        return pid if started is not None and _start_ticks(pid) == started else None

    @property
    def is_alive(self) -> bool:
        """Whether it lives, or is about to: a claimed launch lives while its claimer does."""
        if (self._folder / "process.json").exists():
            return self.pid is not None
        try:
            claimer = int(json.loads((self._folder / "claim.json").read_text())["pid"])
        except _UNREADABLE:
            return False
        return _start_ticks(claimer) is not None

    def terminate(self) -> None:
        """Ask it to end."""
        if pid := self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all it started, and wait until it is gone."""
        if pid := self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            deadline = time.monotonic() + _END_SECONDS
            while self.pid is not None and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)

    def clear(self, ray_dir: Path) -> None:
        """Remove what it left if it could not clean up: processes of its Ray, and Ray's files."""
        if not ray_dir.exists() or self.pid is not None:
            return
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    # workers rename themselves, but inherit the path of the token
                    words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                    if f"{ray_dir}/".encode() in words:
                        os.kill(int(entry.name), signal.SIGKILL)
        shutil.rmtree(ray_dir, ignore_errors=True)


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where there is none, or only what is left of it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else int(fields[19])
