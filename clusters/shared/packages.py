"""Whether pip finds what a job wants installed, asked on this machine without installing, building or running any of it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

from packaging.requirements import InvalidRequirement, Requirement

_SECONDS = 20.0
"""For all of pip's questions; one that takes longer is left unanswered."""
_PLACED = re.compile(r"/|@|^-(r|e|c|-requirement|-editable|-constraint)\b")
"""Entries that name a place instead of a package: pip would build what lies there, so they are not asked about."""
_UNREACHED = re.compile(r"Could not fetch URL \S+: (?!404)|connection broken", re.IGNORECASE)
_INVALID = re.compile(r"Invalid requirement: ['\"]?([^'\"\n]+)")
_MISSING = re.compile(
    r"ERROR: No matching distribution found for ([^\n]+?)(?: \(from [^\n]*\))?$", re.MULTILINE
)
_CONFLICT = re.compile(r"ERROR: Cannot install (.+?) because these package versions have conflicting")


def problem_with(packages: Sequence[str]) -> str | None:
    """Why pip can't install the packages together, in one sentence.

    None where it can, and where that is not known: no index answers in time, or a package comes only as source, whose
    needs are known when it is built.
    """
    asked = [entry for entry in packages if not _PLACED.search(entry) or entry.startswith(("--", "-i", "-f"))]
    if not asked:
        return None
    words = [word for entry in asked for word in (shlex.split(entry) if entry.startswith("-") else [entry])]
    said = _pip("install", "--dry-run", "--only-binary", ":all:", *words)
    if said is None or _UNREACHED.search(said):
        return None
    if found := _INVALID.search(said):
        return f"environment.pip: {found[1].strip()!r} names no package; write it as pip does: name, or name==1.2"
    if found := _CONFLICT.search(said):
        return f"environment.pip: pip can't install {found[1]} together, since they need different versions of something"
    if (found := _MISSING.search(said)) and not _comes_as_source(found[1]):
        return f"environment.pip: pip finds no version of {found[1]} for this Python; is it spelled so, and is its index named?"
    return None


def _comes_as_source(requirement: str) -> bool:
    try:
        wanted = Requirement(requirement)
    except InvalidRequirement:
        return False
    said = _pip("index", "versions", wanted.name)
    versions = re.search(r"^Available versions: (.+)$", said or "", re.MULTILINE)
    return said is None or bool(versions and any(wanted.specifier.filter(versions[1].split(", "))))


def _pip(*arguments: str) -> str | None:
    """All that pip says; None where it says nothing in time, or there is none."""
    command = [
        sys.executable,
        "-m",
        "pip",
        *arguments,
        "-vv",
        "--no-input",
        "--retries",
        "1",
        "--timeout",
        "5",
    ]
    try:
        answer = subprocess.run(
            [*command, "--disable-pip-version-check"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    return answer.stdout
