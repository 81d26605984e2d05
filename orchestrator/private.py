"""Folders that nobody but their user may enter or swap, in places that all users of a machine share."""

from __future__ import annotations

import contextlib
import getpass
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import InfrastructureError


def temporary_folder() -> Path:
    """Where temporary files go. Raises InfrastructureError where TMPDIR names a folder that can't be written: Python would
    take another one and say nothing.
    """
    wanted = os.environ.get("TMPDIR")
    if wanted and not (Path(wanted).is_dir() and os.access(wanted, os.W_OK | os.X_OK)):
        raise InfrastructureError(
            f"TMPDIR {wanted} is no folder that can be written; set it to one, or unset it"
        )
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        raise InfrastructureError(
            "no folder for temporary files can be written, or there is no space left; set TMPDIR to another one"
        ) from None


_LONGEST_RAY_FOLDER = 107 - len("/r/session_2026-11-29_03-02-29_157280_1234567/sockets/plasma_store")


def ray_folder(name: str) -> Path:
    """Where a Ray instance of this user keeps its files: short, because Ray puts Unix sockets below it, whose paths may have
    107 characters. Nothing is made. Raises InfrastructureError where temporary files lie too deep.
    """
    place = temporary_folder()
    folder = place / f"tw-{os.getuid()}" / name
    if len(str(folder)) > _LONGEST_RAY_FOLDER:
        raise InfrastructureError(
            f"TMPDIR {place} is too long for the sockets that Ray puts there; set it to a shorter folder"
        )
    return folder


def own_folder(folder: Path) -> None:
    """Make a folder for this user alone, or take the one that is there where it is that.

    Raises:
        InfrastructureError: it can't be made, belongs to somebody else, or others could put another in its place.

    """
    mend = "set TMPDIR to a folder of your own"
    try:
        _refuse_swapping(folder.parent, mend)
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise InfrastructureError(
                    f"{folder} was made by somebody else, who could take runs over; remove it, or {mend}"
                ) from None
            if stat.S_IMODE(found.st_mode) & 0o077:
                folder.chmod(0o700)
    except OSError as error:
        raise InfrastructureError(f"{folder} can't be made: {error.strerror}; {mend}") from None


@contextlib.contextmanager
def files_for_this_user_alone() -> Iterator[None]:
    """What this process makes meanwhile, by whatever library, nobody else may read."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """This process's temporary files, and those of what it starts meanwhile, go to a new folder of this user alone. What
    torch compiles stays where it was, for later runs.
    """
    compiled = Path(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}")
    changed = {
        "TMPDIR": str(folder),
        "TORCHINDUCTOR_CACHE_DIR": os.environ.get("TORCHINDUCTOR_CACHE_DIR", str(compiled)),
    }
    before = {name: os.environ.get(name) for name in changed}
    folder.mkdir(mode=0o700)
    os.environ.update(changed)
    tempfile.tempdir = None  # Python looks again
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
        tempfile.tempdir = None


def new_folder(folder: Path) -> None:
    """Make a folder that was not there before, in one as ``own_folder`` makes. Raises InfrastructureError."""
    own_folder(folder.parent)
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise InfrastructureError(f"{folder} can't be made: {error.strerror}") from None


def _refuse_swapping(parent: Path, mend: str) -> None:
    """Whoever may write to a folder may rename what is in it, unless its sticky bit is set."""
    found = parent.stat()
    is_ours = found.st_uid in (0, os.getuid())
    others_write = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
    if others_write or not is_ours:
        raise InfrastructureError(f"{parent} can be changed by other users, who could take runs over; {mend}")
