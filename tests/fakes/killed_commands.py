"""Commands that are killed before any one of the system calls by which they change the machine, and before and after any
request to a server.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any

from orchestrator.storage.local import SystemCalls

_CHANGES = {
    *("os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate"),
    *("subprocess.Popen", "fcntl.flock", "os.kill", "os.killpg"),
}
_KILLED = 99


def is_killed(action: Callable[[], Any], at: int) -> bool:
    """Do it in a process that is gone before its ``at``-th change; whether it came so far. Its modules must be loaded."""
    child = os.fork()
    if child == 0:
        _be_killed(at)
        try:
            action()
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, _KILLED), f"the command failed with {code} at change {at}"
    return code == _KILLED


def points() -> Iterator[int]:
    """1, 2, ... : end the loop where a command was not killed any more."""
    yield from range(1, 1000)


def _be_killed(at: int) -> None:
    made = 0

    def change() -> None:
        nonlocal made
        made += 1
        if made == at:
            os._exit(_KILLED)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        opens_to_write = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE
        if event in _CHANGES or opens_to_write:
            change()

    def write(self: SystemCalls, descriptor: int, data: memoryview) -> int:
        half = os.write(descriptor, data[: len(data) // 2])
        change()
        return half + os.write(descriptor, data[half:])

    def ask(self: HTTPConnection, *arguments: Any, **named: Any) -> None:
        change()
        put_request(self, *arguments, **named)

    def hear_answer(self: HTTPConnection, *arguments: Any, **named: Any) -> Any:
        answer = get_response(self, *arguments, **named)
        change()
        return answer

    put_request, get_response = HTTPConnection.putrequest, HTTPConnection.getresponse
    HTTPConnection.putrequest = ask  # type: ignore[method-assign]
    HTTPConnection.getresponse = hear_answer  # type: ignore[method-assign]
    sys.addaudithook(hear)
    SystemCalls.write = write  # type: ignore[method-assign]
    SystemCalls.fsync = lambda self, descriptor: change()  # type: ignore[method-assign]
