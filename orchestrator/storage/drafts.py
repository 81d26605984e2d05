"""Hidden names that files have until they are whole. A killed process leaves its draft behind: the name says whose it is, so that
whoever writes into that folder next can remove it.

``.NAME.PLACE-PID-STARTED-RANDOM.tmp``: the place is the machine since its boot, and the container's processes in it. Drafts of
another place are left alone, since nobody here knows whether their writer lives.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from contextlib import suppress
from functools import cache
from pathlib import Path

from orchestrator.machine import boot, start_ticks

_END = ".tmp"
_DRAFT = re.compile(r"\..+\.(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-(?P<started>\d+)-[0-9a-f]{8}\.tmp")


def draft_name(name: str) -> str:
    """A name of its own for what ``name`` will be."""
    pid = os.getpid()
    return f".{name}.{_place()}-{pid}-{start_ticks(pid) or 0}-{secrets.token_hex(4)}{_END}"


def is_draft(name: str) -> bool:
    """Whether a file of this name is not whole yet."""
    return name.startswith(".") and name.endswith(_END)


def sweep(folder: Path) -> None:
    """Remove drafts in a folder whose writer has ended. What can't be looked at or removed stays."""
    with suppress(OSError):
        for path in folder.iterdir():
            if (found := _DRAFT.fullmatch(path.name)) and _has_ended(found):
                with suppress(OSError):
                    path.unlink()


def _has_ended(draft: re.Match[str]) -> bool:
    is_here = draft["place"] == _place() and draft["started"] != "0"
    return is_here and start_ticks(int(draft["pid"])) != int(draft["started"])


@cache
def _place() -> str:
    """Where numbers of processes mean the same; of a system that does not say, another one for each process."""
    try:
        known = f"{boot()} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        known = secrets.token_hex(8)
    return hashlib.sha256(known.encode()).hexdigest()[:8]
