"""``${NAME}`` in the paths of a file that a person wrote: what differs between machines, and no secret."""

from __future__ import annotations

import re
from collections.abc import Mapping

from orchestrator.errors import SpecError

ALLOWED = (
    "HOME",
    "USER",
    "TMPDIR",
    "SCRATCH",
    "WORK",
    "PROJECT",
    "DATA",
    "DATA_DIR",
    "DATASETS",
    "TRAINWRIGHT_HOME",
)
"""Variables that a path may name. A plan is kept and shown, so no others: they may hold secrets."""


def expand(path: str, environment: Mapping[str, str]) -> str:
    """The path with the values of its variables.

    Raises:
        SpecError: a variable is not allowed, or has no value here.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in ALLOWED:
            raise SpecError(
                f"${{{name[:40]}}} is not read here; a path may name {', '.join(ALLOWED)}; give others with --set"
            )
        if not environment.get(name):
            raise SpecError(f"${{{name}}} has no value here; export {name}=... first")
        return environment[name]

    return re.sub(r"\$\{([^}]*)\}", value, path)
