"""What takes an upload, wherever that is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol


class Held(NamedTuple):
    """What an upload that was cut off has left of a file."""

    size_bytes: int
    """From its start on."""
    sha256: str
    """Of these bytes."""


class UploadTarget(Protocol):
    """A place that one upload goes to. Under its final name there is nothing before ``commit``, and then all of it.

    Every method may raise InfrastructureError: no answer, no room.
    """

    def begin(self, sizes: Mapping[str, int]) -> Mapping[str, Held]:
        """Be told of all files, by path and bytes; the one file of an upload that is no folder has the path ``""``.

        Returns:
            What is there of them already.

        Raises:
            SpecError: the name is taken.
        """
        ...

    def put(self, path: str, offset: int, chunks: Iterable[bytes], sha256: Callable[[], str]) -> None:
        """Take the rest of a file from a byte on.

        Args:
            path: one of those told.
            offset: bytes that are there already and stay.
            chunks: the others.
            sha256: of the whole file; asked when ``chunks`` has ended.

        """
        ...

    def commit(self) -> None:
        """Check that all is there, and give it its name."""
        ...

    def close(self) -> None:
        """Let go of the place, with what is there of an upload that was not committed."""
        ...
