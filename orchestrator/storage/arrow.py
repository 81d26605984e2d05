"""Arrow's file systems, opened in one way for everything; credentials come from the environment."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from orchestrator.machine import is_installed
from orchestrator.storage import faults
from orchestrator.storage.uris import split_scheme

if TYPE_CHECKING:
    from pyarrow import fs

SCHEMES = ("s3", "gs", "gcs")


def has_arrow() -> bool:
    """Whether this process can read object stores and data at all. A client that only submits can't."""
    return is_installed("pyarrow")


def _refuse_without_arrow(place: str) -> None:
    if not has_arrow():
        raise OSError(f"{place} is read with pyarrow, which is not installed here (pip install pyarrow)")


@lru_cache(maxsize=64)
def object_store(scheme: str, bucket: str) -> fs.FileSystem:
    """The file system of one of ``SCHEMES`` in which a bucket lies.

    ``AWS_ENDPOINT_URL`` (``AWS_ENDPOINT_URL_S3`` before it) and ``CLOUD_STORAGE_EMULATOR_ENDPOINT`` lead to another
    server than Amazon's and Google's; the latter is what Google's C++ client heeds, without credentials.
    """
    _refuse_without_arrow(f"{scheme}://{bucket}")
    from pyarrow import fs

    if scheme != "s3":
        emulated = "CLOUD_STORAGE_EMULATOR_ENDPOINT" in os.environ
        return fs.GcsFileSystem(
            anonymous=emulated, retry_time_limit=timedelta(seconds=faults.GCS_RETRY_SECONDS)
        )
    options: dict[str, Any] = {
        "allow_bucket_creation": False,
        "retry_strategy": fs.AwsStandardS3RetryStrategy(faults.S3_RETRIES),
    }
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        address = urlparse(endpoint)
        options |= {"endpoint_override": address.netloc, "scheme": address.scheme or "https"}
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        options["region"] = region
    elif not endpoint:
        with suppress(OSError):  # whoever uses the bucket next gets the error, and can say what for
            options["region"] = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(**options)


def open_filesystem(place: str) -> tuple[fs.FileSystem, str]:
    """The file system of a path or URI, and the path in it. Options in a URI (``?region=...``) are Arrow's own.

    Raises OSError where it can't be opened, or there is no such scheme.
    """
    _refuse_without_arrow(place)
    from pyarrow import fs

    scheme, path = split_scheme(place)
    if scheme in ("", "file"):
        return fs.LocalFileSystem(), path
    if scheme in SCHEMES and "?" not in path:
        return object_store(scheme, path.partition("/")[0]), path
    try:
        opened: tuple[fs.FileSystem, str] = fs.FileSystem.from_uri(place)
    except ValueError as error:
        raise OSError(str(error)) from error
    return opened


def read_file(store: fs.FileSystem, path: str, offset: int = 0, length: int | None = None) -> bytes:
    """At most ``length`` bytes of a file from one on; none behind its end.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the store fails.

    """
    with faults.closed_files_as_os_errors(path), store.open_input_file(path) as file:
        size = file.size()
        wanted = size - offset if length is None else min(length, size - offset)
        content: bytes = file.read_at(max(0, wanted), min(offset, size))
        return content


def names_in(store: fs.FileSystem, folder: str) -> list[str]:
    """Names of files and folders in a folder, sorted; empty where there is no such folder.

    On GCS all that lies below is listed: Arrow shows only those folders there that somebody made as such.
    """
    from pyarrow import fs

    everything = store.type_name == "gcs"
    found = store.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=everything))
    return sorted({info.path[len(folder) :].strip("/").partition("/")[0] for info in found})


def files_below(store: fs.FileSystem, folder: str) -> list[tuple[str, int, float]]:
    """Path, bytes and time of writing (seconds since the epoch) of every file below a folder."""
    from pyarrow import fs

    found = store.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=True))
    return [(info.path, info.size, (info.mtime_ns or 0) / 1e9) for info in found if info.is_file]


def remove_all(store: fs.FileSystem, path: str) -> None:
    """Remove a file, or a folder with all that is in it; no matter if there is neither."""
    from pyarrow import fs

    kind = store.get_file_info(path).type
    if kind == fs.FileType.File:
        store.delete_file(path)
    elif kind == fs.FileType.Directory and store.type_name == "gcs":
        # not ``delete_dir``: it asks for an object of the folder's own, which the folder need not have
        store.delete_dir_contents(path)
    elif kind == fs.FileType.Directory:
        store.delete_dir(path)
