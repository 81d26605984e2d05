"""What a storage's errors mean, what is tried again, and how often: one table for everything that is stored."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import TypeVar

T = TypeVar("T")
log = logging.getLogger(__name__)

RETRIES = 5
FIRST_WAIT_SECONDS = 0.2
"""Before the first retry; it doubles from one to the next."""
S3_RETRIES = 3
"""Of one request, by Arrow; ours are around them."""
GCS_RETRY_SECONDS = 10
"""The same. Arrow's own default is a quarter of an hour, in which a run would wait without a word."""

_REFUSALS = (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError, PermissionError)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the kernel says where a disk, a quota or a limit on the size of files (``ulimit -f``) leaves no room."""
_REFUSAL_NUMBERS = (*NO_ROOM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)
_REFUSAL_WORDS = (
    *("ACCESS_DENIED", "AccessDenied", "NO_SUCH_BUCKET", "NoSuchBucket", "NO_SUCH_KEY"),
    "OAuth2 access token",
)
"""Words of what S3 and GCS say no to for good."""
_DAMAGE_WORDS = (
    *("Corrupt", "deserialize", "Unexpected end of stream", "Malformed", "malformed", "data page"),
    *("CRC checksum", "encrypted", "decrypt"),
)
"""Words of Arrow's errors about a file's contents, which come as OSError too."""


class Fault(Enum):
    """What an OSError of a storage means."""

    REFUSED = "refused"
    """Not there, not allowed, or no room: trying again can't help."""
    DAMAGED = "damaged"
    """The file is there, and is not what it should be: trying again can't help."""
    PASSING = "passing"
    """It may pass."""


def fault_of(error: OSError) -> Fault:
    """What an error means."""
    if isinstance(error, _REFUSALS) or error.errno in _REFUSAL_NUMBERS:
        return Fault.REFUSED
    if any(word in str(error) for word in _DAMAGE_WORDS):
        return Fault.DAMAGED
    if any(word in str(error) for word in _REFUSAL_WORDS):
        return Fault.REFUSED
    return Fault.PASSING


def retrying(action: Callable[[], T], what: str) -> T:
    """Do it, again after a fault that may pass: five times, waits doubling with jitter.

    Args:
        action: may be done twice without harm.
        what: the path or URI, for the log.

    Raises:
        OSError: as the storage raised it where trying again can't help; else how often it failed, and the last fault.
    """
    for attempt in range(RETRIES + 1):
        try:
            with closed_files_as_os_errors(what):
                return action()
        except OSError as error:
            if fault_of(error) is not Fault.PASSING:
                raise
            if attempt == RETRIES:
                raise OSError(
                    f"the storage failed {RETRIES + 1} times, last with {first_line(error)}"
                ) from error
            wait = FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.5, 1.5)
            log.warning("%s: %s; trying again in %.1f s", what, first_line(error), wait)
            time.sleep(wait)
    raise AssertionError


@contextmanager
def closed_files_as_os_errors(what: str) -> Iterator[None]:
    """Arrow says of a file of GCS whose read failed that it is closed, as a ValueError, and does not say why."""
    try:
        yield
    except ValueError as error:
        if "closed file" not in str(error):
            raise
        raise OSError(f"{what}: {error}") from error


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
