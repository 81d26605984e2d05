"""Names that Ray and Kubernetes take, made from run ids so that two runs never share one."""

from __future__ import annotations

import hashlib
import re

LONGEST_RAYJOB_NAME = 47
"""KubeRay refuses longer ones: it puts a cluster suffix and pod suffixes behind, and those must fit 63."""

_RAYJOB_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


def submission_id(run_id: str, launch: int) -> str:
    """Ray's id of one launch. Fixed, so that sending a launch twice makes one job."""
    return run_id if launch == 1 else f"{run_id}-{launch}"


def rayjob_name(run_id: str, launch: int) -> str:
    """Name of the launch's RayJob: its submission id where Kubernetes takes that, else a readable part of it and
    a hash of all of it. Never longer than 47; a DNS-1035 label.
    """
    wanted = submission_id(run_id, launch)
    if len(wanted) <= LONGEST_RAYJOB_NAME and _RAYJOB_NAME.fullmatch(wanted):
        return wanted
    digest = hashlib.sha256(wanted.encode()).hexdigest()[:10]
    readable = re.sub(r"[^a-z0-9]+", "-", wanted.lower()).strip("-")
    if not readable[:1].isalpha():
        readable = f"run-{readable}"
    return f"{readable[: LONGEST_RAYJOB_NAME - len(digest) - 1].strip('-')}-{digest}"


def label_value(text: str) -> str:
    """Text as a Kubernetes label value: itself where that is one, else a readable part and a hash."""
    if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:52].strip("-._")
    return f"{readable}-{digest}" if readable else digest
