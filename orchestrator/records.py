"""What a run leaves in its storage, and how it is read: the plan, each launch's state, its end, stop requests.

::

    <storage>/plan.json
    <storage>/launches/1/state.json      the newest RunStatus, replaced as a whole
    <storage>/launches/1/final.json      the end; created once, never overwritten: the first writer wins
    <storage>/launches/1/driver.log      output of the driver (kind local)
    <storage>/control/stop-1             its existence asks launch 1 for a graceful stop
    <storage>/logs/attempt-1/rank-0.log  output of each worker
    <storage>/checkpoints/
"""

from __future__ import annotations

import os
import posixpath
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.runs import RunStatus
from orchestrator.storage.arrow import open_filesystem, read_file


class RunRecord:
    """One run's records, on a local path or in an object store."""

    def __init__(self, storage: str) -> None:
        self.storage = storage.rstrip("/")
        self._is_local = "://" not in storage
        self._filesystem: Any = None
        self._root = self.storage
        if not self._is_local:
            self._filesystem, self._root = open_filesystem(self.storage)

    # -- files -----------------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes | None:
        """A file's content; None where it isn't there."""
        if self._is_local:
            with suppress(FileNotFoundError, NotADirectoryError):
                return (Path(self._root) / name).read_bytes()
            return None
        try:
            return read_file(self._filesystem, posixpath.join(self._root, name))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Replace a file as a whole: a reader sees the old one or the new one."""
        if not self._is_local:
            with self._filesystem.open_output_stream(posixpath.join(self._root, name)) as stream:
                stream.write(content)
            return
        path = Path(self._root) / name
        temporary = _temporary(path, content)
        temporary.replace(path)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that must not be there yet; False where somebody was first.

        On an object store two writers in the same instant may both succeed, and the later content stays.
        """
        if not self._is_local:
            if self.read(name) is not None:
                return False
            self.write(name, content)
            return True
        path = Path(self._root) / name
        temporary = _temporary(path, content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        return True

    # -- what they say ---------------------------------------------------------------------------------------

    def newest_launch(self) -> int:
        """Number of the newest launch; 0 where there is none."""
        launch = 0
        while self.read(f"launches/{launch + 1}/state.json") is not None:
            launch += 1
        return launch

    def status(self, launch: int | None = None) -> RunStatus | None:
        """How a launch stands (default: the newest): its end where it has one."""
        launch = launch or self.newest_launch()
        content = self.read(f"launches/{launch}/final.json") or self.read(f"launches/{launch}/state.json")
        return RunStatus.model_validate_json(content) if content else None

    def set_state(self, status: RunStatus) -> None:
        """Write how the launch stands. Has no effect on what readers see once it has ended."""
        self.write(f"launches/{status.launch}/state.json", status.model_dump_json(indent=2).encode())

    def end(self, status: RunStatus) -> RunStatus:
        """Write the launch's end, unless it has one; returns the end that holds. What was told before stays."""
        assert status.state.is_final
        told = self.status(status.launch)
        if told is not None:
            status = status.after(told)
        if self.create(f"launches/{status.launch}/final.json", status.model_dump_json(indent=2).encode()):
            return status
        earlier = self.status(status.launch)
        assert earlier is not None
        return earlier

    def ask_to_stop(self, launch: int) -> None:
        """Ask a launch for a graceful stop. Asking again changes nothing."""
        self.create(f"control/stop-{launch}", b"stop\n")

    def stop_was_asked(self, launch: int) -> bool:
        """Whether somebody asked a launch to stop."""
        return self.read(f"control/stop-{launch}") is not None


def _temporary(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Path(temporary)
