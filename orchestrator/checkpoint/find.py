"""Which checkpoints there are, which are good, and which attempt may write."""

from __future__ import annotations

import logging

from orchestrator.checkpoint.format import (
    COMMITTED,
    MANIFEST,
    Checkpoint,
    Manifest,
    RankIndex,
    check_coverage,
    data_name,
    decode_index,
    decode_manifest,
    folder_name,
    index_name,
    parse_folder_name,
    sha256,
)
from orchestrator.errors import CheckpointError
from orchestrator.storage import Store, split_name, store_at

log = logging.getLogger(__name__)

ATTEMPTS = "attempts"


def store_of(root: str) -> Store:
    """The store of the checkpoints below ``root``. Raises CheckpointError where it can't be opened."""
    try:
        return store_at(root)
    except OSError as error:
        raise CheckpointError(f"checkpoint storage {root!r} can't be opened: {error}") from error


def next_attempt(root: str) -> int:
    """The number of a new attempt, 1 or higher: no other caller gets it, and writers of lower numbers can no
    longer commit. Raises CheckpointError where the storage can't be written.
    """
    store = store_of(root)
    try:
        number = newest_attempt(store) + 1
        while not store.create(f"{ATTEMPTS}/{number}", b""):
            number += 1
        return number
    except OSError as error:
        raise CheckpointError(f"checkpoint storage {root!r} can't be written: {error}") from error


def newest_attempt(store: Store) -> int:
    """The highest attempt that was begun; 0 where none was."""
    return max((int(name) for name in store.list(ATTEMPTS) if name.isascii() and name.isdigit()), default=0)


def is_superseded(root: str, attempt: int) -> bool:
    """Whether a later attempt has begun. Raises OSError where the storage can't be read."""
    return newest_attempt(store_of(root)) > attempt


def folders(store: Store) -> list[tuple[int, int]]:
    """(step, attempt) of every checkpoint folder, committed or not, newest first.

    A later attempt's are newer, whatever their step: it may have gone back to an older checkpoint on purpose.
    """
    found = [parsed for name in store.list("") if (parsed := parse_folder_name(name))]
    return sorted(found, key=lambda item: (item[1], item[0]), reverse=True)


def is_committed(store: Store, step: int, attempt: int) -> bool:
    """Whether the commit marker is there."""
    return store.size(f"{folder_name(step, attempt)}/{COMMITTED}") is not None


def committed(root: str | Store) -> list[Checkpoint]:
    """Every committed checkpoint with a sound manifest, newest first; tensors are not read."""
    store = store_of(root) if isinstance(root, str) else root
    found = []
    for step, attempt in folders(store):
        if is_committed(store, step, attempt):
            try:
                found.append(_checkpoint(store, read_manifest(store, folder_name(step, attempt))))
            except (CheckpointError, OSError) as error:
                log.warning("checkpoint %s is left aside: %s", folder_name(step, attempt), error)
    return found


def newest_good(root: str | Store) -> Checkpoint | None:
    """The newest checkpoint whose every byte is as it was written; None where there is none.

    Reads all of it. Damaged ones are logged as warnings, by name and fault, and the next older one is tried.
    """
    store = store_of(root) if isinstance(root, str) else root
    for step, attempt in folders(store):
        folder = folder_name(step, attempt)
        if not is_committed(store, step, attempt):
            log.info("checkpoint %s was never finished and is left aside", folder)
            continue
        try:
            return _checkpoint(store, verify(store, folder))
        except (CheckpointError, OSError) as error:
            log.warning("checkpoint %s is left aside: %s", folder, error)
    return None


def _checkpoint(store: Store, manifest: Manifest) -> Checkpoint:
    path = f"{store.root.rstrip('/')}/{folder_name(manifest.step, manifest.attempt)}"
    return Checkpoint(manifest.step, manifest.attempt, path, manifest.meta)


def checkpoint_at(path: str) -> Checkpoint:
    """The checkpoint in the folder ``path``; its tensors are verified as they are read.

    Raises CheckpointError where it is not a committed checkpoint or its manifest is damaged.
    """
    root, folder = split_name(path)
    store = store_of(root)
    try:
        return _checkpoint(store, read_manifest(store, folder))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: this is no committed checkpoint") from error
    except (CheckpointError, OSError) as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error


def content_of(saved: Checkpoint) -> str:
    """SHA-256 of all that is in it, whatever its folder is called."""
    root, folder = split_name(saved.path)
    return store_of(root).read(f"{folder}/{COMMITTED}", 0, 200).decode().strip()


def read_manifest(store: Store, folder: str) -> Manifest:
    """The manifest, checked against the commit marker and the folder's name."""
    marker = store.read(f"{folder}/{COMMITTED}", 0, 200)
    content = store.read(f"{folder}/{MANIFEST}")
    if marker != commit_marker(content):
        raise CheckpointError(f"its {MANIFEST} is not the one that was committed")
    manifest = decode_manifest(content)
    if parse_folder_name(folder) != (manifest.step, manifest.attempt):
        raise CheckpointError(
            f"its {MANIFEST} is of step {manifest.step}, attempt {manifest.attempt}: the folder was renamed"
        )
    return manifest


def commit_marker(manifest: bytes) -> bytes:
    """Content of the commit marker for an encoded manifest."""
    return sha256(manifest).encode() + b"\n"


def read_indexes(store: Store, folder: str, manifest: Manifest) -> list[RankIndex]:
    """Every rank's index, checked against the manifest."""
    indexes = []
    for rank, digest in enumerate(manifest.index_sha256):
        try:
            content = store.read(f"{folder}/{index_name(rank)}")
        except FileNotFoundError as error:
            raise CheckpointError(f"its {index_name(rank)} is missing") from error
        if sha256(content) != digest:
            raise CheckpointError(f"its {index_name(rank)} is damaged")
        indexes.append(decode_index(content, rank))
    return indexes


def verify(store: Store, folder: str) -> Manifest:
    """Read all of a checkpoint and return its manifest. Raises CheckpointError that names what is damaged."""
    manifest = read_manifest(store, folder)
    indexes = read_indexes(store, folder, manifest)
    check_coverage(indexes)
    for index in indexes:
        for block in range(len(index.block_sha256)):
            read_block(store, folder, index, block)
    return manifest


def read_block(store: Store, folder: str, index: RankIndex, block: int) -> bytes:
    """One block of a rank's file. Raises CheckpointError where it is missing, short, too long or changed."""
    name = data_name(index.rank)
    try:
        content = store.read(f"{folder}/{name}", block * index.block_bytes, index.block_bytes)
    except FileNotFoundError as error:
        raise CheckpointError(f"its {name} is missing") from error
    if block == len(index.block_sha256) - 1 and (size := store.size(f"{folder}/{name}")) != index.bytes:
        raise CheckpointError(f"its {name} has {size} bytes and was written with {index.bytes}")
    if sha256(content) != index.block_sha256[block]:
        begin = block * index.block_bytes
        raise CheckpointError(f"its {name} is damaged between bytes {begin} and {begin + len(content)}")
    return content
