"""A list of calls that several fakes may share, so that the order between them can be told."""

from __future__ import annotations

from typing import Any

Calls = list[tuple[Any, ...]]
"""Each call as its name and its arguments, in the order they came."""
