"""An upload into an object store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath

from orchestrator.clusters.shared.uploads.target import Held
from orchestrator.errors import InfrastructureError, SpecError
from orchestrator.storage import split_name, store_at
from orchestrator.storage.uris import UNFINISHED_UPLOAD


class BucketTarget:
    """An object becomes visible whole, but a prefix has no name that could be given at the end: so each of its folders holds a
    mark until all is there, and whoever reads data refuses a folder with such a mark. Begins anew where it was cut off.
    """

    def __init__(self, place: str, *, replace: bool) -> None:
        """
        Args:
            place: URI of the final prefix, or of the one object.
            replace: whether what is there gives way: objects of the same names at once, others at the end.

        """
        self._place, self._replace = place, replace
        folder, self._name = split_name(place)
        with self._explained():
            self._store = store_at(folder)
        self._sizes: Mapping[str, int] = {}
        self._marks: list[str] = []

    def begin(self, sizes: Mapping[str, int]) -> Mapping[str, Held]:
        """See UploadTarget."""
        with self._explained():
            there = {file.path for file in self._store.files(self._name)}
            if self._store.exists(self._name):
                there.add(self._name)
            is_unfinished = self._at(UNFINISHED_UPLOAD) in there
            if there and not is_unfinished and not self._replace:
                raise SpecError(
                    f"{self._place} is there already; give another --to, or --replace to have it replaced"
                )
            self._sizes = sizes
            # the first mark is set first, and taken away last
            folders = {str(folder) for path in sizes if path for folder in PurePosixPath(path).parents}
            self._marks = [
                self._at(str(PurePosixPath(folder, UNFINISHED_UPLOAD)))
                for folder in sorted(folders, key=_root_first)
            ]
            for mark in self._marks:
                self._store.write(mark, b"trainwright upload has not ended here\n")
        return {}

    def put(self, path: str, offset: int, chunks: Iterable[bytes], sha256: Callable[[], str]) -> None:
        """See UploadTarget. The store checks what it is sent; a size is looked at in the end."""
        with self._explained():
            self._store.write_chunks(self._at(path), chunks)

    def commit(self) -> None:
        """See UploadTarget."""
        wanted = {self._at(path): size for path, size in self._sizes.items()}
        with self._explained():
            there = {file.path: file.size_bytes for file in self._store.files(self._name)}
            if "" in self._sizes:
                there = {self._name: self._store.size(self._name) or 0, **there}
            for path, size in wanted.items():
                if there.get(path) != size:
                    raise InfrastructureError(
                        f"{path} has {there.get(path, 'no')} bytes instead of {size}; upload it again"
                    )
            for path in there:
                if path not in wanted and path not in self._marks:
                    self._store.remove(path)
            for mark in reversed(self._marks):
                self._store.remove(mark)

    def close(self) -> None:
        """See UploadTarget."""

    def _at(self, path: str) -> str:
        return f"{self._name}/{path}".rstrip("/")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
            raise InfrastructureError(f"{self._place} can't be written: {reason}") from None


def _root_first(folder: str) -> tuple[bool, str]:
    return folder != ".", folder
