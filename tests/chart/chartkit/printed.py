"""The commands that a page or Helm's notes name, as a person copies them."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
_BEGIN = ("kubectl ", "trainwright ", "mkdir ", "umask ", "helm ")


def commands_of_page(text: str) -> list[str]:
    """Each line of the shell blocks of a page, or of a part of one."""
    lines = [line for block in _BLOCK.findall(text) for line in block.splitlines()]
    return [_without_comment(line) for line in lines if line.strip() and not line.startswith("#")]


def commands_of_notes(text: str) -> list[str]:
    """Each indented line of Helm's notes that is a command."""
    indented = [line.strip() for line in text.splitlines() if line.startswith("  ")]
    return [_without_comment(line) for line in indented if line.startswith(_BEGIN)]


def _without_comment(line: str) -> str:
    return re.sub(r"\s+# .*$", "", line).strip()
