"""A Store on a disk: local, or shared by machines."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from orchestrator.storage.drafts import draft_name, is_draft, sweep
from orchestrator.storage.faults import retrying
from orchestrator.storage.store import Chunk, Store, StoredFile


class SystemCalls:
    """The calls that change a disk, in one place so that tests can make any of them fail."""

    def open(self, path: Path, flags: int, mode: int = 0o600) -> int:
        """As os.open."""
        return os.open(path, flags, mode)

    def write(self, descriptor: int, data: memoryview) -> int:
        """As os.write."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """As os.fsync."""
        os.fsync(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        """As Path.replace."""
        old.replace(new)

    def link(self, old: Path, new: Path) -> None:
        """As os.link."""
        os.link(old, new)

    def unlink(self, path: Path) -> None:
        """As Path.unlink."""
        path.unlink(missing_ok=True)

    def mkdir(self, path: Path) -> None:
        """As Path.mkdir."""
        path.mkdir(mode=0o700)


class LocalStore(Store):
    """Files on a disk, for their user alone. What is written has a hidden name until it is whole and synced; then it is renamed, and the
    folder synced. Into each folder that a store writes to, it first removes what writers that were killed have left unfinished there.
    """

    def __init__(self, root: str, calls: SystemCalls | None = None) -> None:
        self.root = root
        self._calls = calls or SystemCalls()
        self._swept = set[Path]()

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """See Store."""

        def read() -> bytes:
            with self._at(path).open("rb") as file:
                file.seek(offset)
                return file.read(-1 if length is None else length)

        return retrying(read, str(self._at(path)))

    def write(self, path: str, content: bytes) -> None:
        """See Store."""
        self.write_chunks(path, [content])

    def write_chunks(self, path: str, chunks: Iterable[Chunk]) -> None:
        """See Store."""
        with self.draft(path) as draft:
            self._fill(draft, chunks)

    @contextmanager
    def draft(self, path: str) -> Iterator[Path]:
        """See Store."""
        target = self._at(path)
        with self._beside(target) as draft:
            yield draft
            draft.chmod(0o600)  # whoever filled it may have opened it to others
            self._sync(draft)
            self._calls.rename(draft, target)
        self._sync(target.parent)

    def create(self, path: str, content: bytes) -> bool:
        """See Store. A link is made for one caller only, and to a whole file."""
        target = self._at(path)
        with self._beside(target) as draft:
            self._fill(draft, [content])
            self._sync(draft)
            try:
                self._calls.link(draft, target)
                is_first = True
            except FileExistsError:
                # NFS asks again when an answer is lost, and hears that there is what it has made itself
                is_first = draft.samefile(target)
            with suppress(OSError):
                self._calls.unlink(draft)
        self._sync(target.parent)
        return is_first

    def size(self, path: str) -> int | None:
        """See Store."""
        try:
            status = self._at(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def list(self, path: str) -> list[str]:
        """See Store."""
        try:
            names = [entry.name for entry in self._at(path).iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in names if not is_draft(name))

    def files(self, path: str) -> Sequence[StoredFile]:
        """See Store. Links are not followed; what is removed meanwhile is left out."""
        found = []
        for folder, _, names in os.walk(self._at(path)):
            for name in names:
                file = Path(folder, name)
                with suppress(FileNotFoundError):
                    status = file.lstat()
                    inside = file.relative_to(self.root).as_posix()
                    found.append(StoredFile(inside, status.st_size, status.st_mtime))
        return sorted(found)

    def remove(self, path: str) -> None:
        """See Store. Never follows a link."""
        target = self._at(path)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def _at(self, path: str) -> Path:
        return Path(self.root, path)

    @contextmanager
    def _beside(self, target: Path) -> Iterator[Path]:
        """A name of its own for what ``target`` will be, on the same disk; gone where the block fails."""
        self._make_folder(target.parent)
        if target.parent not in self._swept:
            self._swept.add(target.parent)
            sweep(target.parent)
        draft = target.with_name(draft_name(target.name))
        try:
            yield draft
        except BaseException:
            with suppress(OSError):
                self._calls.unlink(draft)
            raise

    def _fill(self, draft: Path, chunks: Iterable[Chunk]) -> None:
        descriptor = self._calls.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            for chunk in chunks:
                view = memoryview(chunk).cast("B")
                while view:
                    view = view[self._calls.write(descriptor, view) :]
        except OSError as error:
            raise OSError(
                error.errno, error.strerror, str(draft.parent)
            ) from error  # the kernel names no file
        finally:
            os.close(descriptor)

    def _sync(self, path: Path) -> None:
        descriptor = self._calls.open(path, os.O_RDONLY)
        try:
            self._calls.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            with suppress(FileExistsError):
                self._calls.mkdir(folder)
                self._sync(folder.parent)
