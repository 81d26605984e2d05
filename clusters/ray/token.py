"""The bearer token for a Ray cluster: found where Ray itself looks, or in the file that the profile names."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from orchestrator.errors import SpecError
from orchestrator.spec.profile import ClusterProfile

WHERE = "secrets.ray_token_file of the profile, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
"""Where a token is looked for, in this order."""


def find_token(profile: ClusterProfile) -> str | None:
    """The token, or None where there is none in any of the places.

    Raises SpecError where the profile's file is missing, empty, or can be read by others.
    """
    if profile.secrets.ray_token_file:
        path = Path(profile.secrets.ray_token_file).expanduser()
        try:
            mode = path.stat().st_mode
            token = path.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SpecError(
                f"cluster {profile.name}: secrets.ray_token_file {path} can't be read:"
                f" {error.strerror if isinstance(error, OSError) else error}"
            ) from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SpecError(
                f"cluster {profile.name}: others can read secrets.ray_token_file {path}; run: chmod 600 {path}"
            )
        if not token:
            raise SpecError(f"cluster {profile.name}: secrets.ray_token_file {path} is empty")
        return token
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    chosen = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(chosen or "~/.ray/auth_token").expanduser()
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
