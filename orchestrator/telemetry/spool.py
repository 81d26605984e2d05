"""The spool: every point that a rank logged, kept in the run's storage for whoever sends it to the tracker.

::

    <storage>/tracking/run.json                       what the tracker's run is described by
    <storage>/tracking/attempt-1/rank-0.jsonl         on a disk: one file, a record a line, appended to at each log
    <storage>/tracking/attempt-1/rank-0/000000000000  in an object store: pieces, named by the byte they begin at
    <storage>/tracking/attempt-2/follows.json         how long the parts of earlier attempts were when 2 began
    <storage>/tracking/files/...                      samples, as the tracker shall show them
    <storage>/tracking/mlflow.json                    which of the tracker's runs it is
    <storage>/tracking/closed.json                    which end of the run the tracker has been told

A record is written once and never changed, so whoever sends it, at whatever time, sends the same. What an attempt
takes up again after a fault and logs again is left out by name and step. What was logged up to a checkpoint is
durable before the checkpoint is (``flush``); what was logged after it is logged again by the attempt that goes on
from there: so no kill makes a hole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.private import files_for_this_user_alone
from orchestrator.storage import Store, is_uri, store_at

FOUND = "mlflow.json"
"""The note of which of the tracker's runs it is, once that is described: nothing is sent before."""
HANG = "hang.json"
"""The note of the last attempt that hung: whom it waited for, and in which file that stands."""
_FOLDER = "tracking"
_FILES = f"{_FOLDER}/files"
_UPLOAD_SECONDS = 2.0
_READ_BYTES = 1 << 20


_EVALUATIONS = 1_000_000
"""Numbers of ranks from here on, which no group has, are those of later evaluations."""


class Part(NamedTuple):
    """What one rank logged in one attempt."""

    attempt: int
    rank: int

    @property
    def name(self) -> str:
        """As it is called in the storage and in what the tracker remembers."""
        return f"attempt-{self.attempt}/rank-{self.rank}"


class Record(NamedTuple):
    """One line of a part."""

    content: dict[str, Any]
    """``step``, ``time`` (milliseconds since the epoch) and ``values``; or ``step`` and ``file``."""
    end: int
    """The byte behind it."""


class Spool:
    """The reading side."""

    def __init__(self, storage: str, store: Store | None = None) -> None:
        """
        Args:
            storage: the run's root, a path or URI.
            store: instead of the one that ``storage`` names.
        """
        self.storage = storage.rstrip("/")
        self.store = store or store_at(self.storage)

    def parts(self) -> list[Part]:
        """All there are, older attempts first."""
        found = []
        for attempt in self._attempts():
            ranks = {
                int(match[1])
                for name in self.store.list(f"{_FOLDER}/attempt-{attempt}")
                if (match := re.fullmatch(r"rank-(\d+)(\.jsonl)?", name))
            }
            found += [Part(attempt, rank) for rank in sorted(ranks)]
        return found

    def records(self, part: Part, start: int = 0) -> Iterator[Record]:
        """Whole records of a part from a byte on. A line that is damaged is passed over."""
        limit = self._limit(part)
        position, rest = start, b""
        while True:
            chunk = self._read(part, position + len(rest))
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                position += len(line) + 1
                if limit is not None and position > limit:
                    return
                with contextlib.suppress(ValueError):
                    content = json.loads(line)
                    if isinstance(content, dict):
                        yield Record(content, position)

    def values_after(self, sent: Mapping[str, int]) -> int:
        """How many metric values there are behind these positions, by a part's name."""
        return sum(
            len(record.content.get("values", ()))
            for part in self.parts()
            for record in self.records(part, sent.get(part.name, 0))
        )

    def lacking(self, sent: Mapping[str, int] | None) -> str:
        """What a tracker lacks, in words.

        Args:
            sent: how far each part was sent; None: nobody here knows.

        """
        if sent is None and self.note(FOUND) is not None:
            return f"may lack up to {self.values_after({}):,} metric values"
        return f"lacks {self.values_after(sent or {}):,} metric values"

    def logged_after(self, step: int) -> set[tuple[str, int]]:
        """(name, step) of every point behind a step, in any attempt."""
        return {
            (name, record.content["step"])
            for part in self.parts()
            for record in self.records(part)
            if record.content["step"] > step
            for name in record.content.get("values", ())
        }

    def next_evaluation(self) -> Part:
        """A part of its own for what is measured after training: of the newest attempt, so that no other cuts it short."""
        parts = self.parts()
        attempt = max((part.attempt for part in parts), default=1)
        taken = [part.rank for part in parts if part.rank >= _EVALUATIONS]
        return Part(attempt, max(taken, default=_EVALUATIONS - 1) + 1)

    def file(self, name: str) -> bytes:
        """A sample's content."""
        return self.store.read(f"{_FILES}/{name}")

    def note(self, name: str) -> dict[str, Any] | None:
        """A small JSON file beside the parts; None where there is none."""
        try:
            content: dict[str, Any] = json.loads(self.store.read(f"{_FOLDER}/{name}"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return content

    def set_note(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a small JSON file beside the parts."""
        self.store.write(f"{_FOLDER}/{name}", json.dumps(content, indent=2).encode())

    def follow_earlier(self, attempt: int) -> None:
        """Begin an attempt: what a stale process adds to an earlier one from now on does not count."""
        lengths = {part.name: self._length(part) for part in self.parts() if part.attempt < attempt}
        self.set_note(f"attempt-{attempt}/follows.json", lengths)

    def _attempts(self) -> list[int]:
        names = self.store.list(_FOLDER)
        return sorted(int(name[8:]) for name in names if re.fullmatch(r"attempt-\d+", name))

    def _limit(self, part: Part) -> int | None:
        for attempt in self._attempts():
            if attempt > part.attempt:
                lengths = self.note(f"attempt-{attempt}/follows.json")
                if lengths is not None and part.name in lengths:
                    return int(lengths[part.name])
        return None

    def _length(self, part: Part) -> int:
        end = 0
        for record in self.records(part):
            end = record.end
        return end

    def _read(self, part: Part, start: int) -> bytes:
        """At most ``_READ_BYTES`` from a byte on; empty where there are no more."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return self.store.read(f"{_FOLDER}/{part.name}.jsonl", start, _READ_BYTES)
        pieces = [int(name) for name in self.store.list(f"{_FOLDER}/{part.name}")]
        begin = max((piece for piece in pieces if piece <= start), default=None)
        if begin is None:
            return b""
        return self.store.read(f"{_FOLDER}/{part.name}/{begin:012d}", start - begin, _READ_BYTES)


class SpoolWriter(ABC):
    """Writes one part. Of the points of a step that was logged before, in any attempt, nothing is written again."""

    def __init__(self, storage: str, part: Part, logged: Collection[tuple[str, int]] = ()) -> None:
        """
        Args:
            storage: the run's root.
            part: whose points they are.
            logged: (name, step) of points that earlier attempts wrote and this one may come to again.
        """
        self._storage, self._part, self._logged = storage, part, set(logged)
        self._one_by_one = threading.Lock()  # the loop's thread, and the one that looks at the machine
        self.lost = 0
        """Metric values that could not be written."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the metric values of a step."""
        fresh = {name: float(value) for name, value in values.items() if (name, step) not in self._logged}
        if fresh:
            self._add({"step": step, "time": int(time.time() * 1000), "values": fresh}, len(fresh))

    def add_file(self, step: int, name: str, content: bytes) -> None:
        """Keep a sample of a step; the same name later takes its place."""
        with contextlib.suppress(OSError):
            store_at(self._storage).write(f"{_FILES}/{name}", content)
            self._add({"step": step, "time": int(time.time() * 1000), "file": name}, 0)

    def _add(self, record: dict[str, Any], values: int) -> None:
        with self._one_by_one:
            try:
                self._write(json.dumps(record, separators=(",", ":")).encode() + b"\n")
            except OSError:  # a full disk must not end the run
                self.lost += values

    @abstractmethod
    def _write(self, line: bytes) -> None:
        """Take a line. Returns at once."""

    @abstractmethod
    def flush(self) -> None:
        """Make durable what was written."""

    @abstractmethod
    def close(self) -> None:
        """Flush, and end."""


class FileSpool(SpoolWriter):
    """A file on a disk. What was written outlives this process at once, and the machine from the next flush on."""

    def __init__(self, storage: str, part: Part, logged: Collection[tuple[str, int]] = ()) -> None:
        super().__init__(storage, part, logged)
        path = Path(storage, _FOLDER, f"{part.name}.jsonl")
        with files_for_this_user_alone():
            path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._is_torn = False

    def _write(self, line: bytes) -> None:
        content = b"\n" + line if self._is_torn else line
        self._is_torn = True  # until it is known to be whole
        if os.write(self._file, content) != len(content):
            raise OSError("the disk took only a part of a line")
        self._is_torn = False

    def flush(self) -> None:
        """See SpoolWriter."""
        with contextlib.suppress(OSError):
            os.fsync(self._file)

    def close(self) -> None:
        """See SpoolWriter."""
        self.flush()
        os.close(self._file)


class ObjectSpool(SpoolWriter):
    """Pieces in an object store, uploaded by a thread every two seconds and at each flush."""

    def __init__(self, storage: str, part: Part, logged: Collection[tuple[str, int]] = ()) -> None:
        super().__init__(storage, part, logged)
        self._store = store_at(storage)
        self._waiting: list[bytes] = []
        self._uploaded = 0
        self._lock, self._uploading, self._closed = threading.Lock(), threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)
        self._thread.start()

    def _write(self, line: bytes) -> None:
        with self._lock:
            self._waiting.append(line)

    def _work(self) -> None:
        while not self._closed.wait(_UPLOAD_SECONDS):
            self.flush()

    def flush(self) -> None:
        """See SpoolWriter. A store that fails is tried again at the next."""
        with self._uploading:
            with self._lock:
                lines, self._waiting = self._waiting, []
            if not lines:
                return
            piece = b"".join(lines)
            try:
                self._store.write(f"{_FOLDER}/{self._part.name}/{self._uploaded:012d}", piece)
                self._uploaded += len(piece)
            except OSError:
                with self._lock:
                    self._waiting = lines + self._waiting

    def close(self) -> None:
        """See SpoolWriter."""
        self._closed.set()
        self._thread.join()
        self.flush()


def open_spool(storage: str, part: Part, logged: Collection[tuple[str, int]] = ()) -> SpoolWriter:
    """The writer that goes with the storage."""
    return (ObjectSpool if is_uri(storage) else FileSpool)(storage, part, logged)


@contextlib.contextmanager
def sender_lock(storage: str, seconds: float) -> Iterator[bool]:
    """Whether this process is the only one that sends the run's spool; waits so long for another to end.

    In an object store there is no such lock: there MLflow's own keys make sending a record twice harmless.
    """
    if is_uri(storage):
        yield True
        return
    import fcntl

    path = Path(storage, _FOLDER, "lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        deadline, is_held = time.monotonic() + seconds, False
        while not is_held:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                is_held = True
            if not is_held and time.monotonic() >= deadline:
                break
            if not is_held:
                time.sleep(0.1)
        yield is_held
