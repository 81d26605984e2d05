"""A run's store, reached from outside the cluster: by this process itself, or through a command that runs where the
store is.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.errors import InfrastructureError
from orchestrator.records import LONGEST_READ_BYTES
from orchestrator.storage import Store, StoredFile, store_at

ANSWER_MARK = "@record "
"""What stands before the answer of ``record_tool``, among whatever else a cluster prints."""


class ExplainedStore(Store):
    """A store whose troubles are one sentence each: InfrastructureError from every verb where it does not answer.

    What is not there is still a FileNotFoundError of ``read``.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        with self._explained("be opened"):
            self._store = store_at(root)

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Store."""
        with self._explained(f"read {path}"):
            try:
                return self._store.read(path, offset, length)
            except (FileNotFoundError, NotADirectoryError) as error:
                missing = error
        raise FileNotFoundError(str(missing)) from missing

    def write(self, path: str, content: bytes) -> None:
        """See Store."""
        with self._explained(f"write {path}"):
            self._store.write(path, content)

    def create(self, path: str, content: bytes) -> bool:
        """See Store."""
        with self._explained(f"write {path}"):
            return self._store.create(path, content)

    def size(self, path: str) -> int | None:
        """See Store."""
        with self._explained(f"read {path}"):
            return self._store.size(path)

    def list(self, path: str) -> list[str]:
        """See Store."""
        with self._explained(f"list {path}"):
            return self._store.list(path)

    def files(self, path: str) -> Sequence[StoredFile]:
        """See Store."""
        with self._explained(f"list {path}"):
            return self._store.files(path)

    def remove(self, path: str) -> None:
        """See Store."""
        with self._explained(f"delete {path}"):
            self._store.remove(path)

    @contextmanager
    def _explained(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise InfrastructureError(f"storage {self.root} can't {action}: {reason}") from None


class RemoteStore(Store):
    """A store that only the cluster reaches, through ``record_tool`` there."""

    def __init__(self, root: str, run: Callable[[list[str]], str]) -> None:
        """
        Args:
            root: of the store, as it is called on the cluster.
            run: runs a command line on the cluster and returns what it printed.

        """
        self.root = root
        self._run = run
        self._lock = threading.Lock()

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Store. In pieces that fit whatever carries them."""
        content = b""
        while length is None or len(content) < length:
            room = LONGEST_READ_BYTES if length is None else min(length - len(content), LONGEST_READ_BYTES)
            answer = self.ask("read", path, str(offset + len(content)), str(room))
            if answer is None:
                raise FileNotFoundError(f"{self.root}/{path}")
            piece = base64.b64decode(answer)
            content += piece
            if len(piece) < room:
                break
        return content

    def write(self, path: str, content: bytes) -> None:
        """See Store."""
        self.ask("write", path, base64.b64encode(content).decode())

    def create(self, path: str, content: bytes) -> bool:
        """See Store."""
        return bool(self.ask("create", path, base64.b64encode(content).decode()))

    def size(self, path: str) -> int | None:
        """See Store."""
        answer = self.ask("size", path)
        return None if answer is None else int(answer)

    def list(self, path: str) -> list[str]:
        """See Store."""
        return list(self.ask("list", path))

    def files(self, path: str) -> Sequence[StoredFile]:
        """See Store."""
        return [StoredFile(*one) for one in self.ask("files", path)]

    def remove(self, path: str) -> None:
        """See Store."""
        self.ask("remove", path)

    def ask(self, action: str, path: str, *more: str) -> Any:
        """What ``record_tool`` answers to an action on a path."""
        tool = ["python", "-m", "orchestrator.clusters.shared.record_tool"]
        with self._lock:
            output = self._run([*tool, action, self.root, path, *more])
        for line in reversed(output.splitlines()):
            if line.startswith(ANSWER_MARK):
                return json.loads(line[len(ANSWER_MARK) :])
        last = output.strip().splitlines()[-1:] or ["no output"]
        raise InfrastructureError(
            f"storage {self.root}: can't {action} {path} on the cluster: {last[0][:200]}"
        )
