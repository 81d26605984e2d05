"""One command at a time on a run's launches. The kernel lets go of a lock when its holder ends, however it does."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import InfrastructureError

NAME = "lock"
_WAIT_SECONDS = 30.0
_LOOK_SECONDS = 0.02


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold a run's lock; its folder is made where there is none.

    Raises:
        InfrastructureError: another command holds it for half a minute, or there can be no lock there.

    """
    deadline = time.monotonic() + _WAIT_SECONDS
    while (descriptor := _try(run)) is None:
        if time.monotonic() > deadline:
            raise InfrastructureError(
                f"{run}: another command has been at work on this run for half a minute"
            )
        time.sleep(_LOOK_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_if_free(run: Path) -> Iterator[bool]:
    """Hold a run's lock where nobody else does and the disk can be written; says whether it is held."""
    try:
        descriptor = _try(run)
    except InfrastructureError:
        descriptor = None
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _try(run: Path) -> int | None:
    """The lock's descriptor; None where another holds it."""
    path = run / NAME
    try:
        _make_folders(run)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise InfrastructureError(
            f"{error.filename or path} can't be written: {error.strerror}; runs go to TRAINWRIGHT_HOME, or the storage"
            " of the cluster's profile"
        ) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
            return descriptor
    except BlockingIOError:
        pass
    except OSError as error:
        os.close(descriptor)
        raise InfrastructureError(f"{path} can't be locked: {error.strerror}") from None
    os.close(descriptor)  # held by another, or deleted with its run meanwhile
    return None


def _make_folders(folder: Path) -> None:
    """For this user alone, unlike what ``mkdir(parents=True)`` makes. Another process may make them at the same time."""
    if not folder.is_dir():
        _make_folders(folder.parent)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except FileExistsError:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
