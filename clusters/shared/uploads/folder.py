"""An upload into a folder of this machine, or of a disk that machines share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from orchestrator.clusters.shared.uploads.target import Held
from orchestrator.errors import InfrastructureError, SpecError
from orchestrator.section import format_bytes

_CHUNK_BYTES = 1 << 20


class FolderTarget:
    """Everything lies in a hidden folder beside the final name until it is whole, synced and checked; then it is renamed. What an
    upload that was cut off has left there is gone on with.
    """

    def __init__(self, place: str, *, replace: bool) -> None:
        """
        Args:
            place: the final path.
            replace: whether what has that name gives way at the end.

        """
        self._final = Path(place)
        self._draft = self._final.with_name(f".{self._final.name}.upload")
        self._content = self._draft / "content"
        self._replace = replace
        self._sizes: Mapping[str, int] = {}
        self._checked: set[str] = set()
        self._lock: int | None = None

    def begin(self, sizes: Mapping[str, int]) -> Mapping[str, Held]:
        """See UploadTarget."""
        self._refuse_taken()
        with self._explained():
            self._draft.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._sizes = dict(sizes)
            held = dict(self._held())
            needed = sum(sizes.values()) - sum(one.size_bytes for one in held.values())
            free = shutil.disk_usage(self._draft).free
        if needed > free:
            raise InfrastructureError(
                f"{self._final.parent} has room for {format_bytes(free)}, and {format_bytes(needed)} are to come; make room,"
                " or take a larger volume"
            )
        return held

    def put(self, path: str, offset: int, chunks: Iterable[bytes], sha256: Callable[[], str]) -> None:
        """See UploadTarget."""
        target = self._content / path
        with self._explained():
            target.parent.mkdir(parents=True, exist_ok=True)
            found = _hash_of(target, offset)
            with target.open("r+b" if offset else "wb") as file:
                file.seek(offset)
                file.truncate()
                for chunk in chunks:
                    found.update(chunk)
                    file.write(chunk)
        if found.hexdigest() != sha256():
            with contextlib.suppress(OSError):
                target.unlink()
            raise InfrastructureError(
                f"{path or self._final.name} arrived with other bytes than it was sent with; upload it again"
            )
        self._checked.add(path)

    def commit(self) -> None:
        """See UploadTarget."""
        lacking = [path for path in self._sizes if path not in self._checked]
        assert not lacking, lacking
        self._refuse_taken()
        with self._explained():
            for path, size in self._sizes.items():
                if (there := (self._content / path).stat().st_size) != size:
                    raise InfrastructureError(
                        f"{path or self._final.name} has {there} bytes instead of {size}; upload it again"
                    )
            os.sync()
            if self._final.exists():  # to be replaced; it goes with the draft
                self._final.rename(self._draft / "replaced")
            self._content.rename(self._final)
            _sync(self._final.parent)
        with contextlib.suppress(OSError):
            shutil.rmtree(self._draft)

    def close(self) -> None:
        """See UploadTarget."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _refuse_taken(self) -> None:
        if os.path.lexists(self._final) and not self._replace:
            raise SpecError(
                f"{self._final} is there already; give another --to, or --replace to have it replaced"
            )

    def _take_lock(self) -> None:
        self._lock = os.open(self._draft / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SpecError(
                f"another upload to {self._final} is going on; wait for it, or give another --to"
            ) from None
        except OSError:  # a shared disk without locks
            return

    def _held(self) -> Iterator[tuple[str, Held]]:
        """What is there of the files that will come; the rest of an earlier upload, of other files, is removed."""
        if self._content.is_file() and "" not in self._sizes:
            self._content.unlink()
        elif self._content.is_dir() and "" in self._sizes:
            shutil.rmtree(self._content)
        if self._content.is_file():
            yield from self._held_of(self._content, "")
        for folder, _, names in os.walk(self._content, topdown=False):
            for name in names:
                file = Path(folder, name)
                yield from self._held_of(file, file.relative_to(self._content).as_posix())
            if not any(Path(folder).iterdir()):
                Path(folder).rmdir()

    def _held_of(self, file: Path, path: str) -> Iterator[tuple[str, Held]]:
        size = file.stat().st_size
        if size > self._sizes.get(path, -1):
            file.unlink()
        else:
            yield path, Held(size, _hash_of(file, size).hexdigest())

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InfrastructureError(
                f"{self._final} can't be written: {error.strerror or error}; what has arrived is kept, and the same"
                " command goes on with it"
            ) from None


def _hash_of(file: Path, size: int) -> hashlib._Hash:
    found = hashlib.sha256()
    if size:
        with file.open("rb") as opened:
            while size and (chunk := opened.read(min(size, _CHUNK_BYTES))):
                found.update(chunk)
                size -= len(chunk)
    return found


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
