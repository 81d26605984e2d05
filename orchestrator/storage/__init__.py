"""The one store that records, checkpoints and the data's cache are built on: local and shared disks, S3 and GCS.

Imports nothing heavy: Arrow is loaded when an object store is opened.
"""

from __future__ import annotations

from orchestrator.storage.local import LocalStore
from orchestrator.storage.objects import ObjectStore
from orchestrator.storage.store import Store, StoredFile
from orchestrator.storage.uris import absolute, is_uri, split_name, split_scheme

__all__ = [
    "LocalStore",
    "ObjectStore",
    "Store",
    "StoredFile",
    "absolute",
    "is_uri",
    "split_name",
    "split_scheme",
    "store_and_name",
    "store_at",
]


def store_at(root: str) -> Store:
    """The store below ``root``: a path, ``file://``, ``s3://``, ``gs://``, or another URI that Arrow opens.

    Raises OSError where it can't be opened.
    """
    scheme, path = split_scheme(root)
    return LocalStore(path) if scheme in ("", "file") else ObjectStore(root)


def store_and_name(file: str) -> tuple[Store, str]:
    """The store in which a file lies, and its path there."""
    folder, name = split_name(file)
    return store_at(folder), name
