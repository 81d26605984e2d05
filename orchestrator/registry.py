"""Registries: a visible dict from a name to where its object is, ``module:attribute``, imported on use."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from orchestrator.errors import SpecError, suggest


def load(table: Mapping[str, str], name: str, kind: str) -> Any:
    """The object that the table has under a name; its module is imported now, if it was not before.

    Args:
        kind: what the table holds, in the singular, for the error.

    Raises:
        SpecError: the table has no such name.
    """
    if name not in table:
        raise SpecError(f"no such {kind}: {name!r}{suggest(name, table)}")
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)
