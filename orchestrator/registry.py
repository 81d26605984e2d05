"""Registries: a visible dict from a name to where its object is, ``module:attribute``, imported on use."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from importlib import import_module
from typing import Any

from orchestrator.errors import SpecError


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


def suggest(wrong: str, right: Collection[str]) -> str:
    """``; did you mean 'x'?`` where one of the right names is near enough, else all of them where they are few."""
    if near := nearest(wrong, right):
        return near
    return f"; there is {', '.join(sorted(right))}" if 0 < len(right) <= 24 else ""


def nearest(wrong: str, right: Collection[str]) -> str:
    """``; did you mean 'x'?`` where one of the right names is near enough, else nothing."""
    near = difflib.get_close_matches(wrong, sorted(right), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def suggest_of(wrong: str, right: Collection[str]) -> str:
    """As ``suggest``, and all of the right names in any case, in their own order: for a choice of few."""
    near = difflib.get_close_matches(wrong, sorted(right), n=1)
    meant = f"; did you mean {near[0]!r}? There is" if near else "; there is"
    return f"{meant} {', '.join(right)}"
