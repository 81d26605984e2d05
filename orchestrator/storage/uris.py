"""Paths and URIs of storage: here alone it is decided which is which."""

from __future__ import annotations

import os

_MARK = "://"


def is_uri(place: str) -> bool:
    """Whether it is a URI (``s3://bucket/prefix``), not a path of this machine or of a disk that machines share."""
    return _MARK in place


def split_scheme(place: str) -> tuple[str, str]:
    """The scheme of a URI and what follows it; ``""`` and the path itself where it is a path."""
    scheme, mark, rest = place.partition(_MARK)
    return (scheme, rest) if mark else ("", place)


def split_name(place: str) -> tuple[str, str]:
    """The folder or prefix of a file, and its name in there."""
    folder, slash, name = place.rstrip("/").rpartition("/")
    return folder or slash or ".", name


def absolute(place: str, base_dir: str) -> str:
    """A path or URI that means the same everywhere; relative paths start at ``base_dir``."""
    if is_uri(place):
        return place
    return os.path.normpath(os.path.join(base_dir, os.path.expanduser(place)))  # noqa: PTH111, PTH118


UNFINISHED_UPLOAD = ".trainwright-upload"
"""Name of the object that says, in each folder of an upload into an object store, that not all of it is there."""
