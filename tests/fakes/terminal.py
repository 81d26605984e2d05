"""A pseudo-terminal: a process in it believes that a person sits there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Sequence


class Terminal:
    """One command in a terminal of its own.

    Args:
        command: What runs.
        columns: The terminal's width.
        environment: Put over this process's variables.
    """

    def __init__(self, command: Sequence[str], *, columns: int = 100, **environment: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        clean = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "CI", "FORCE_COLOR")}
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**clean, "TERM": "xterm-256color", **environment},
            start_new_session=True,
            preexec_fn=_as_a_terminal_starts_it,
        )
        os.close(slave)
        self.shown = ""

    def wait_for(self, text: str, seconds: float = 60.0) -> None:
        """Read until the text was shown."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < deadline, f"{text!r} never came: {self.shown[-2000:]}"
            assert self._read(0.2), f"ended without {text!r}: {self.shown[-2000:]}"

    def press(self, keys: str) -> None:
        """As typed; ``\\x03`` is Ctrl-C."""
        os.write(self._master, keys.encode())

    def close(self) -> None:
        """Close the window."""
        os.close(self._master)

    def exit_code(self, seconds: float = 60.0) -> int:
        """Read to the end."""
        deadline = time.monotonic() + seconds
        while self._read(0.2):
            assert time.monotonic() < deadline, self.shown[-2000:]
        return self.process.wait(seconds)

    def _read(self, seconds: float) -> bool:
        """False where nothing can come any more."""
        with contextlib.suppress(InterruptedError):
            if not select.select([self._master], [], [], seconds)[0]:
                return True
            try:
                content = os.read(self._master, 65536)
            except OSError as error:
                assert error.errno == errno.EIO  # the other side is closed
                return False
            self.shown += content.decode(errors="replace")
            return bool(content)
        return True


def _as_a_terminal_starts_it() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # these tests may be run by nohup
