"""A Store in an object store: S3 or GCS, through Arrow."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from orchestrator.storage.arrow import files_below, names_in, open_filesystem, read_file, remove_all
from orchestrator.storage.faults import retrying
from orchestrator.storage.store import Chunk, Store, StoredFile

T = TypeVar("T")

PATIENCE_SECONDS = 60.0
"""A ticket that stood alone for so long is one whose owner died."""
_LOOK_SECONDS = 0.5
_TICKETS = ".tickets"
"""End of the names of folders in which callers of ``create`` meet."""
_CHUNK_BYTES = 4 << 20


class ObjectStore(Store):
    """Objects below a prefix. An upload becomes visible whole and durable when it is closed."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self._filesystem, self._prefix = open_filesystem(self.root)

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Store."""
        return self._retrying(lambda: read_file(self._filesystem, self._at(path), offset, length), path)

    def write(self, path: str, content: bytes) -> None:
        """See Store."""
        self._retrying(lambda: self._upload(path, [content]), path)

    def write_chunks(self, path: str, chunks: Iterable[Chunk]) -> None:
        """See Store. Where ``chunks`` fail, what was at ``path`` is gone: Arrow can end an upload, but not give it up."""
        try:
            self._upload(path, chunks)
        except BaseException:
            with suppress(OSError):
                self.remove(path)
            raise

    @contextmanager
    def draft(self, path: str) -> Iterator[Path]:
        """See Store."""
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder, "draft")
            yield draft
            self._retrying(lambda: self._upload_file(path, draft), path)

    def create(self, path: str, content: bytes) -> bool:
        """See Store. Arrow gives no exclusive creation, so: write a ticket, then look.

        Who sees another's ticket beside its own takes its own back and tries again after a random wait: of two, the
        one that looks last sees both, so at most one goes on to write the file. A ticket holds the content, so that
        where its owner died before it wrote the file, the next caller does it, after ``PATIENCE_SECONDS``. This is
        the one gap: an owner that stood still for so long between two requests, and lives, writes a second time what
        was written for it, and where another had meanwhile won, in that one's place.

        Raises OSError where too many callers stand in each other's way.
        """
        tickets = f"{path}{_TICKETS}"
        for _ in range(20):
            self._wait_for_others(path, tickets)
            if self.exists(path):
                return False
            ticket = f"{tickets}/{secrets.token_hex(8)}"
            self.write(ticket, content)
            # in this order: an owner writes the file before it takes its ticket back
            is_alone = self.list(tickets) == [ticket.rpartition("/")[2]]
            if is_alone and not self.exists(path):
                self.write(path, content)
                self.remove(tickets)
                return True
            self.remove(ticket)
            time.sleep(0.05 + secrets.randbelow(1000) / 2000)
        raise OSError(f"{self.root}: too many writers want {path}; start one run at a time")

    def _wait_for_others(self, path: str, tickets: str) -> None:
        """Until there is a file, or no ticket; writes what a dead owner did not come to write."""
        waited, last = 0.0, None
        while (standing := self.list(tickets)) and not self.exists(path):
            waited = waited + _LOOK_SECONDS if standing == last else 0.0
            last = standing
            if waited >= PATIENCE_SECONDS:
                if len(standing) == 1:
                    self.write(path, self.read(f"{tickets}/{standing[0]}"))
                self.remove(tickets)
                return
            time.sleep(_LOOK_SECONDS)

    def size(self, path: str) -> int | None:
        """See Store."""
        info = self._retrying(lambda: self._filesystem.get_file_info(self._at(path)), path)
        return int(info.size) if info.is_file else None

    def list(self, path: str) -> list[str]:
        """See Store."""
        names = self._retrying(lambda: names_in(self._filesystem, self._at(path)), path)
        return [name for name in names if not name.endswith(_TICKETS)]

    def files(self, path: str) -> Sequence[StoredFile]:
        """See Store."""
        found = self._retrying(lambda: files_below(self._filesystem, self._at(path)), path)
        inside = len(self._prefix.rstrip("/")) + 1
        return sorted(StoredFile(name[inside:], size, changed) for name, size, changed in found)

    def remove(self, path: str) -> None:
        """See Store."""
        with suppress(FileNotFoundError):  # somebody else removes it too
            self._retrying(lambda: remove_all(self._filesystem, self._at(path)), path)

    def _at(self, path: str) -> str:
        return f"{self._prefix}/{path}".rstrip("/")

    def _retrying(self, action: Callable[[], T], path: str) -> T:
        return retrying(action, f"{self.root}/{path}")

    def _upload(self, path: str, chunks: Iterable[Chunk]) -> None:
        with self._filesystem.open_output_stream(self._at(path), compression=None) as stream:
            for chunk in chunks:
                stream.write(chunk)

    def _upload_file(self, path: str, file: Path) -> None:
        with file.open("rb") as source:
            self._upload(path, iter(lambda: source.read(_CHUNK_BYTES), b""))
