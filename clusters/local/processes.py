"""The driver of a launch as a process of this machine: started, found again by later commands, ended, cleared up after.

A process is known by its number, the moment it started and the boot of the machine in which it did, so that a later
one with the same number is not taken for it. What it started is known by its session, whose number no other process
can have while one of them lives, and by the launch's own token in its environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import InfrastructureError
from orchestrator.machine import boot, process_status, start_ticks
from orchestrator.storage import Store

TOKEN = "RAY_AUTH_TOKEN_PATH"
"""Variable that all processes of a launch inherit; its value is a path that no other launch has."""

_GATE = 'read -r go && exec "$@" </dev/null'
"""The driver begins once it is told to: whoever starts it writes down first who it is. Else it ends unseen."""
_END_SECONDS = 10.0
_UNREADABLE = (OSError, ValueError, KeyError, TypeError)
"""What reading a small file of ours raises where it is not there, half-written or somebody else's."""


class DriverProcess:
    """One launch's driver.

    Args:
        store: The run's.
        folder: The launch's folder in it: holds ``process.json`` from the start on, and ``driver.log``, the driver's
            output.
    """

    def __init__(self, store: Store, folder: str) -> None:
        self._store, self._name = store, f"{folder}/process.json"
        self.log = Path(store.root, folder, "driver.log")

    def start(self, command: Sequence[str], cwd: str, ray_dir: str) -> None:
        """Start it, detached. Should this process end meanwhile, either it is known or it does nothing."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        environment[TOKEN] = token_file(ray_dir)
        try:
            self.log.touch(mode=0o600)
            with self.log.open("ab") as log:
                gate = subprocess.Popen(
                    ["/bin/sh", "-c", _GATE, "driver", *command],
                    cwd=cwd,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    umask=0o077,
                )
        except OSError as error:
            place = error.filename or cwd
            raise InfrastructureError(f"the driver can't be started: {place}: {error.strerror}") from None
        assert gate.stdin is not None
        with gate.stdin as told:
            known = {"pid": gate.pid, "started": start_ticks(gate.pid), "boot": boot(), "ray_dir": ray_dir}
            try:
                self._store.write(self._name, json.dumps(known).encode())
            except OSError as error:
                raise InfrastructureError(
                    f"{self._store.root}/{self._name} can't be written: {error.strerror}"
                ) from None
            told.write(b"go\n")

    @property
    def was_started(self) -> bool:
        """Whether it was ever told to begin."""
        return self._store.exists(self._name)

    @property
    def pid(self) -> int | None:
        """Its number, while it lives."""
        known = self._known()
        lives = known and known["boot"] == boot() and known.get("started") == start_ticks(known["pid"])
        return int(known["pid"]) if lives else None

    @property
    def has_left_something(self) -> bool:
        """Whether it is gone, and Ray's files are not."""
        known = self._known()
        return bool(known) and Path(known["ray_dir"]).is_dir() and self.pid is None

    def terminate(self) -> None:
        """Ask it to end."""
        with self._opened() as process:
            if process is not None:
                signal.pidfd_send_signal(process, signal.SIGTERM)

    def kill(self) -> None:
        """End it and all it started, and wait until it is gone."""
        with self._opened() as process:
            if process is not None:
                signal.pidfd_send_signal(process, signal.SIGKILL)
                _wait_until_gone([process])
        self.clear()

    def clear(self) -> None:
        """Remove what it left if it could not clean up: processes of its Ray, and Ray's files."""
        known = self._known()
        if not known or self.pid is not None:
            return
        if known["boot"] == boot():
            _kill_session(known["pid"], f"{TOKEN}={token_file(known['ray_dir'])}".encode())
        if Path(known["ray_dir"]).parent.name == f"tw-{os.getuid()}":
            shutil.rmtree(known["ray_dir"], ignore_errors=True)

    def _known(self) -> dict[str, Any]:
        """What was written down at its start; nothing where that can't be read."""
        try:
            known = json.loads(self._store.read(self._name))
            return {
                **known,
                "pid": int(known["pid"]),
                "boot": known["boot"],
                "ray_dir": str(known["ray_dir"]),
            }
        except _UNREADABLE:
            return {}

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int | None]:
        """A handle of the process, which no other can get; None where it is gone."""
        pid = self.pid
        try:
            process = os.pidfd_open(pid) if pid is not None else None
        except ProcessLookupError:
            process = None
        try:
            # it may have ended, and another have come, between the look and the handle
            yield process if self.pid == pid else None
        except ProcessLookupError:
            return
        finally:
            if process is not None:
                os.close(process)


def token_file(ray_dir: str) -> str:
    """Where the token of a launch's Ray lies: beside the folder that Ray opens to everybody."""
    return f"{ray_dir}/token"


def _kill_session(session: int, variable: bytes) -> None:
    """End the processes of a session that have a variable in their environment, and wait until they are gone.

    Both must hold: a session's number is free again once all of them are gone.
    """
    ended = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                process = os.pidfd_open(int(entry.name))
                if _is_of_session(entry, session, variable):
                    ended.append(process)
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                else:
                    os.close(process)
    _wait_until_gone(ended)
    for process in ended:
        os.close(process)


def _is_of_session(entry: Path, session: int, variable: bytes) -> bool:
    try:
        if process_status(int(entry.name))[3] != str(session):
            return False
        return variable in (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _wait_until_gone(processes: list[int]) -> None:
    poll = select.poll()
    for process in processes:
        poll.register(process, select.POLLIN)
    waiting, deadline = len(processes), time.monotonic() + _END_SECONDS
    while waiting and time.monotonic() < deadline:
        for process, _ in poll.poll(1000 * max(0.0, deadline - time.monotonic())):
            poll.unregister(process)
            waiting -= 1


def processes_of(ray_dir: str) -> dict[int, str]:
    """Numbers and command lines of all processes of a launch: its driver and what belongs to its Ray."""
    variable = f"{TOKEN}={token_file(ray_dir)}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (
                    variable in (entry / "environ").read_bytes().split(b"\0")
                    and process_status(int(entry.name))[0] != "Z"
                ):
                    command = (entry / "cmdline").read_bytes()
                    found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")[:150]
    return found
