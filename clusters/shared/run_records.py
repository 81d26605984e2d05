"""A run's records, read and written from outside the cluster: in storage that this process reaches itself, or
through a command that runs where the storage is.
"""

from __future__ import annotations

import base64
import json
import posixpath
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import InfrastructureError
from orchestrator.records import RunRecord
from orchestrator.storage.arrow import names_in, read_file

LONGEST_READ_BYTES = 4 * 2**20
"""One ``read_from`` returns at most this much, so that an answer fits whatever carries it."""

ANSWER_MARK = "@record "
"""What stands before the answer of ``record_tool``, among whatever else a cluster prints."""


class StorageRecord(RunRecord):
    """Records in storage that this process reaches: a path, ``s3://`` or ``gs://``.

    Raises InfrastructureError, from every method, where the storage does not answer.
    """

    def __init__(self, storage: str) -> None:
        with _explained(storage, "be opened"):
            super().__init__(storage)

    def read(self, name: str) -> bytes | None:
        """A file's content; None where it isn't there."""
        with _explained(self.storage, f"read {name}"):
            return super().read(name)

    def write(self, name: str, content: bytes) -> None:
        """Replace a file as a whole."""
        with _explained(self.storage, f"write {name}"):
            super().write(name, content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that must not be there yet; False where somebody was first."""
        with _explained(self.storage, f"write {name}"):
            return super().create(name, content)

    def read_from(self, name: str, offset: int) -> bytes:
        """At most ``LONGEST_READ_BYTES`` from a byte on; empty where there is no such file, or no more of it."""
        filesystem, root = self._open()
        with _explained(self.storage, f"read {name}"):
            try:
                return read_file(filesystem, posixpath.join(root, name), offset, LONGEST_READ_BYTES)
            except (FileNotFoundError, NotADirectoryError):
                return b""

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; empty where there is no such folder."""
        filesystem, root = self._open()
        with _explained(self.storage, f"list {folder}"):
            return names_in(filesystem, posixpath.join(root, folder))

    def delete(self, name: str) -> None:
        """Remove a file; no matter if there is none."""
        filesystem, root = self._open()
        with _explained(self.storage, f"delete {name}"):
            try:
                filesystem.delete_file(posixpath.join(root, name))
            except FileNotFoundError:
                return

    def _open(self) -> tuple[Any, str]:
        from pyarrow.fs import LocalFileSystem

        return self._filesystem or LocalFileSystem(), self._root


class RemoteRecord(RunRecord):
    """Records that only the cluster reaches, through ``record_tool`` there.

    Args:
        storage: The run's root.
        run: Runs a command line on the cluster and returns what it printed.
    """

    def __init__(self, storage: str, run: Callable[[list[str]], str]) -> None:
        self.storage = storage.rstrip("/")
        self._run = run
        self._lock = threading.Lock()

    def read(self, name: str) -> bytes | None:
        """A file's content; None where it isn't there."""
        if posixpath.basename(name) not in self.names(posixpath.dirname(name)):
            return None
        content = b""
        while len(piece := self.read_from(name, len(content))) == LONGEST_READ_BYTES:
            content += piece
        return content + piece

    def write(self, name: str, content: bytes) -> None:
        """Replace a file as a whole."""
        self._ask("write", name, base64.b64encode(content).decode())

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that must not be there yet; False where somebody was first."""
        return bool(self._ask("create", name, base64.b64encode(content).decode()))

    def read_from(self, name: str, offset: int) -> bytes:
        """As ``StorageRecord.read_from``."""
        return base64.b64decode(self._ask("read", name, str(offset)))

    def names(self, folder: str) -> list[str]:
        """As ``StorageRecord.names``."""
        return list(self._ask("names", folder))

    def _ask(self, action: str, name: str, *more: str) -> Any:
        with self._lock:
            output = self._run(
                [
                    "python",
                    "-m",
                    "orchestrator.clusters.shared.record_tool",
                    action,
                    self.storage,
                    name,
                    *more,
                ]
            )
        for line in reversed(output.splitlines()):
            if line.startswith(ANSWER_MARK):
                return json.loads(line[len(ANSWER_MARK) :])
        last = output.strip().splitlines()[-1:] or ["no output"]
        raise InfrastructureError(
            f"storage {self.storage}: can't {action} {name} on the cluster: {last[0][:200]}"
        )


AnyRecord = StorageRecord | RemoteRecord


def is_reachable_from_here(storage: str) -> bool:
    """Whether this process can use a profile's storage itself: an object store, or a folder that is there."""
    return "://" in storage or Path(storage).is_dir()


def rank_logs(record: AnyRecord, rank: int) -> list[str]:
    """Names of a rank's logs, oldest attempt first."""
    attempts = [name for name in record.names("logs") if re.fullmatch(r"attempt-\d+", name)]
    return [
        f"logs/{attempt}/rank-{rank}.log"
        for attempt in sorted(attempts, key=lambda name: int(name.rpartition("-")[2]))
        if f"rank-{rank}.log" in record.names(f"logs/{attempt}")
    ]


@contextmanager
def _explained(storage: str, action: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise InfrastructureError(f"storage {storage} can't {action}: {reason}") from None
