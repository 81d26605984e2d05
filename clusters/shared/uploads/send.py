"""What is sent of a person's folder, where to, and the sending."""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from orchestrator.clusters.shared.uploads.target import Held, UploadTarget
from orchestrator.errors import NotFoundError, SpecError
from orchestrator.section import Section
from orchestrator.spec.load import home
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import is_uri

DATA = "data"
"""Folder of a cluster's storage that uploads go to; no run and no cache lies there."""
_CHUNK_BYTES = 1 << 20

OnSent = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes of all."""


class SourceFile(NamedTuple):
    """A file of this machine that is sent."""

    at: Path
    """Where it is."""
    size_bytes: int
    """When it was listed."""


class Uploaded(Section):
    """What lies where the jobs of a cluster read it."""

    path: str
    """What ``data.path`` names."""
    files: int
    """How many."""
    bytes: int
    """Of all."""
    sent_bytes: int
    """Of those that were not there yet, of an upload that was cut off."""


def place_for(profile: ClusterProfile, name: str, to: str | None) -> str:
    """Where an upload goes: ``data/NAME`` in the storage, or what ``to`` names.

    Args:
        profile: the cluster's.
        name: of the folder or file that is sent.
        to: a path below ``data/`` in the storage; or a whole path or URI, in there or in a claim that jobs may write to.

    Raises:
        SpecError: it lies elsewhere.
    """
    data = f"{(profile.storage or str(home())).rstrip('/')}/{DATA}"
    roots = [data, *(one.path.rstrip("/") for one in profile.kubernetes.claims if not one.read_only)]
    asked = (to or name).rstrip("/")
    is_whole = asked.startswith("/") or is_uri(asked)
    scheme, mark, rest = (asked if is_whole else f"{data}/{asked}").partition("://")
    place = f"{scheme}{mark}{posixpath.normpath(rest)}" if mark else posixpath.normpath(scheme)
    if not any(place.startswith(f"{root}/") for root in roots):
        raise SpecError(
            f"--to: {to or name} is not below {' or '.join(roots)}, where uploads to cluster {profile.name} go"
        )
    hidden = next((part for part in place.split("/") if part.startswith(".")), None)
    if hidden:
        raise SpecError(f"--to: what is called {hidden} is hidden from jobs; give a name without a dot first")
    return place


def list_source(source: Path) -> dict[str, SourceFile]:
    """All files of a folder by their path in it, with ``/``; a file alone has the path ``""``.

    Raises:
        NotFoundError: there is no such folder or file.
        SpecError: it is empty, or holds what can't be sent: a link out of it, a socket, a name that is not UTF-8.
    """
    source = source.absolute()
    if not source.exists():
        raise NotFoundError(f"{source}: there is no such folder or file")
    if source.is_file():
        return {"": SourceFile(source, source.stat().st_size)}
    found = {path: SourceFile(file, file.stat().st_size) for path, file in _below(source)}
    if not found:
        raise SpecError(f"{source} holds no file")
    return dict(sorted(found.items()))


def send(files: Mapping[str, SourceFile], target: UploadTarget, on_sent: OnSent) -> int:
    """Send them all and have them named; returns the bytes that had to be sent.

    Raises:
        SpecError: the name is taken, or a file has changed meanwhile.
        InfrastructureError: it did not arrive.
    """
    held = target.begin({path: file.size_bytes for path, file in files.items()})
    meter = _Meter(sum(file.size_bytes for file in files.values()), on_sent)
    for path, file in files.items():
        try:
            with file.at.open("rb") as opened:
                sha256, offset = _known_part(opened, held[path]) if path in held else (hashlib.sha256(), 0)
                meter.done += offset
                target.put(path, offset, meter.counted(_rest(opened, file, offset, sha256)), sha256.hexdigest)
        except FileNotFoundError:
            raise SpecError(
                f"{file.at} is gone since it was listed; upload the folder when it rests"
            ) from None
        except PermissionError:
            raise SpecError(f"{file.at} may not be read by you") from None
    target.commit()
    return meter.sent


class _Meter:
    """How far an upload has come."""

    def __init__(self, total: int, on_sent: OnSent) -> None:
        self.done = self.sent = 0
        self._total, self._on_sent = total, on_sent

    def counted(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks, each told when the next is asked for: then it has gone."""
        for chunk in chunks:
            yield chunk
            self.done += len(chunk)
            self.sent += len(chunk)
            self._on_sent(self.done, self._total)


def _known_part(file: BinaryIO, held: Held) -> tuple[hashlib._Hash, int]:
    """The hash so far and the byte to go on from: the first where what is there already is of something else."""
    found, left = hashlib.sha256(), held.size_bytes
    while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
        found.update(chunk)
        left -= len(chunk)
    if found.hexdigest() == held.sha256:
        return found, held.size_bytes
    file.seek(0)
    return hashlib.sha256(), 0


def _rest(opened: BinaryIO, file: SourceFile, offset: int, sha256: hashlib._Hash) -> Iterator[bytes]:
    left = file.size_bytes - offset
    while left:
        chunk = opened.read(min(left, _CHUNK_BYTES))
        if not chunk:
            raise SpecError(
                f"{file.at} has become shorter since it was listed; upload the folder when it rests"
            )
        sha256.update(chunk)
        left -= len(chunk)
        yield chunk


def _below(source: Path) -> Iterator[tuple[str, Path]]:
    inside = source.resolve()
    for folder, folders, names in os.walk(source, onerror=_refuse_unreadable):
        _refuse_linked_folders(Path(folder), folders)
        for name in names:
            file = Path(folder, name)
            path = file.relative_to(source).as_posix()
            _refuse_unsendable(file, path, inside)
            yield path, file


def _refuse_linked_folders(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if (folder / name).is_symlink():
            raise SpecError(
                f"{folder / name} is a link to a folder; put the folder itself there, or take the link out"
            )


def _refuse_unsendable(file: Path, path: str, inside: Path) -> None:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SpecError(f"{str(file)!a}: its name is not UTF-8; rename it") from None
    if file.is_symlink() and not file.resolve().is_relative_to(inside):
        raise SpecError(
            f"{file} is a link out of the folder, to {file.resolve()}; put the file itself there, or take the link out"
        )
    if not file.exists():
        raise SpecError(f"{file} is a link to nothing; take it out")
    if not stat.S_ISREG(file.stat().st_mode):
        raise SpecError(f"{file} is no file; take it out of the folder")


def _refuse_unreadable(error: OSError) -> None:
    raise SpecError(f"{error.filename} may not be read by you")
