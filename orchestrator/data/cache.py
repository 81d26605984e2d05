"""What was made of data and takes long to make again, kept in the run's cache: made once, found by the next run.

An entry is named by a hash of its kind, of the version of what makes it and of all that it is made from. So nothing in the
cache is ever out of date: whoever mends a maker raises the version that stands beside it, and its entries are made anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.files import exists, locate, read_range, retrying, write_text, write_whole
from orchestrator.errors import DataError

_LOGGER = logging.getLogger(__name__)


def remembered(cache: str, kind: str, version: int, key: Any, make: Callable[[], Any]) -> Any:
    """The value of ``make``, from the cache where it was made before.

    A damaged entry is made again. Two processes that make one at once both write the same; either's is served.

    Args:
        cache: the cache's folder, a path or URI.
        kind: what it is, e.g. ``line-index``; the entry's folder.
        version: of the maker; to be raised when the same key makes another value.
        key: all that the value depends on, JSON-able.
        make: makes the value, JSON-able.

    Raises:
        InfrastructureError: the storage failed.
    """
    path = _entry(cache, kind, version, key, "json")
    if exists(path):
        try:
            entry = json.loads(read_range(path))
            if entry["sha256"] == _digest(entry["value"]):
                return entry["value"]
        except (ValueError, TypeError, KeyError):
            pass  # said below, as for a hash that differs
        _say_damaged(path)
    value = make()
    text = json.dumps({"sha256": _digest(value), "value": value})
    write_text(path, text)
    return json.loads(text)["value"]  # as the next run gets it: tuples are lists


def remembered_table(cache: str, kind: str, version: int, key: Any, write: Callable[[str], None]) -> str:
    """The same with a Parquet file that ``write`` writes to the local path it is given. Returns its path in the cache."""
    path = _entry(cache, kind, version, key, "parquet")
    if exists(path):
        if _is_whole(path):
            return path
        _say_damaged(path)
    write_whole(path, write)
    return path


def _entry(cache: str, kind: str, version: int, key: Any, extension: str) -> str:
    return f"{cache}/{kind}/{_digest([kind, version, key])[:32]}.{extension}"


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _is_whole(path: str) -> bool:
    """Whether the footer, which stands at the end, can be read."""

    def read_footer() -> None:
        system, inner = locate(path)
        with system.open_input_file(inner) as file:
            pq.read_metadata(file)

    try:
        retrying(read_footer, path)
    except (DataError, pa.ArrowException):
        return False
    return True


def _say_damaged(path: str) -> None:
    _LOGGER.warning("%s: is damaged; it is made again", path)
