"""A server that lives exactly as long as the command that started it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_GRACE_SECONDS = 5.0
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, an end that is asked for, a closed terminal."""


class _ToldToEnd(BaseException):
    pass


@contextlib.contextmanager
def until_told_to_end() -> Iterator[Callable[[], None]]:
    """Gives a function that waits until this process is told to end; it waits for nothing where that was told before."""
    told = threading.Event()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in _ENDS}

    def wait() -> None:
        told.wait()

    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a server in a process group of its own until it ends, or until this process is told to end: then the whole group
    ends first. Returns the server's exit code, 0 where it was told.
    """
    server: subprocess.Popen[bytes] | None = None
    is_told = False

    def end(number: int, frame: Any) -> None:
        nonlocal is_told
        is_told = True
        if server is not None:  # else it may be half started: nobody would know it
            raise _ToldToEnd

    before = {number: signal.signal(number, end) for number in _ENDS}
    try:
        server = subprocess.Popen(command, env=dict(environment), start_new_session=True)
        return 0 if is_told else server.wait()
    except _ToldToEnd:
        return 0
    finally:
        for number in _ENDS:
            signal.signal(number, signal.SIG_IGN)
        if server is not None:
            _end_group(server)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(server: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_GRACE_SECONDS)
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
