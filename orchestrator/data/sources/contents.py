"""What a source's files hold, as hashes: the identity of its data, which nothing but the data changes.

A file on a disk is the SHA-256 of its bytes; an object, what its store says of its contents (S3's ETag, Google's MD5 or
CRC32C), or the same SHA-256 where it says nothing. Hashes are kept in the cache with the stamps of their files, so that
a file is read once for them, and again only when it was written to.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.files import exists, locate, read_range, retrying, write_whole
from orchestrator.data.sources.formats import format_of
from orchestrator.data.sources.index import Content, SourceIndex, relative_name
from orchestrator.errors import DataError
from orchestrator.section import format_bytes
from orchestrator.storage import split_scheme

_LOGGER = logging.getLogger(__name__)
_BLOCK_BYTES = 2**26
"""Blocks of a file are hashed side by side; the hash of a file of several is that of its blocks' hashes."""
_PIECE_BYTES = 2**20
_THREADS = 16
_SAID_BYTES = 2**34
_NAMED = 1000
"""Files that an index names with their hashes, to say which one changed; all are in its ``content``."""
_VERSION = 1
"""Of the hashes that are kept; raise it when the same file gets another one."""


def identified(index: SourceIndex, cache: str) -> SourceIndex:
    """The index with the hash of all that its files hold. Reads files that the cache knows no hash of.

    Raises:
        DataError: a file can't be read.
        InfrastructureError: the storage failed.
    """
    contents = format_of(index.kind).contents(index)
    known = {file.path: file.digest for file in index.files if file.digest}
    hashes = [known[one.path] for one in contents] if known else _hashes(index.root, contents, cache)
    said = [[one.meaning, digest] for one, digest in zip(contents, hashes, strict=True)]
    return _without_stamps(index).model_copy(
        update={
            "content": hashlib.sha256(json.dumps(said).encode()).hexdigest(),
            "content_of_files": {
                relative_name(one.path, index.root): (one.bytes, digest[:16])
                for one, digest in zip(contents[:_NAMED], hashes, strict=False)
            },
        }
    )


def made_from(source: SourceIndex, key: object, index: SourceIndex) -> SourceIndex:
    """The index of rows that we made of a source's: their identity is all that they were made from, and their classes are
    called what they were.
    """
    content = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return _without_stamps(index).model_copy(
        update={
            "root": source.root,
            "content": content,
            "content_of_files": source.content_of_files,
            "classes": source.classes,
        }
    )


def _without_stamps(index: SourceIndex) -> SourceIndex:
    """Once it is known what the files hold, nothing depends on when they were written."""
    return index.model_copy(
        update={"files": tuple(file.model_copy(update={"stamp": ""}) for file in index.files)}
    )


def _hashes(root: str, contents: Sequence[Content], cache: str) -> list[str]:
    """The hash of each file, from the cache where the file has the stamp that it had."""
    name = hashlib.sha256(json.dumps([_VERSION, root]).encode()).hexdigest()[:32]
    ledger = f"{cache}/content-hashes/{name}.parquet"
    known = _read_ledger(ledger)
    unknown = [one for one in contents if _stamped(one) not in known]
    if unknown:
        if (size := sum(one.bytes for one in unknown)) >= _SAID_BYTES:
            _LOGGER.info("%s: reading %s once, to know these files again", root, format_bytes(size))
        with ThreadPoolExecutor(_THREADS) as pool:
            known |= zip(map(_stamped, unknown), _hash_all(unknown, pool), strict=True)
        _write_ledger(ledger, {one: known[one] for one in map(_stamped, contents)})
    return [known[_stamped(one)] for one in contents]


_Stamped = tuple[str, int, str]
"""A file's path, size and stamp."""


def _stamped(one: Content) -> _Stamped:
    return one.path, one.bytes, one.stamp


def _hash_all(contents: Sequence[Content], pool: ThreadPoolExecutor) -> Iterator[str]:
    said = pool.map(_said_by_store, contents)
    pending = []
    for one, digest in zip(contents, said, strict=True):
        starts = range(0, max(1, one.bytes), _BLOCK_BYTES) if digest is None else ()
        pending.append((digest, [pool.submit(_hash_block, one.path, start) for start in starts]))
    for digest, blocks in pending:
        yield digest or _joined([block.result() for block in blocks])


def _joined(blocks: list[bytes]) -> str:
    whole = blocks[0] if len(blocks) == 1 else hashlib.sha256(b"".join(blocks)).digest()
    return whole.hex()


def _hash_block(path: str, start: int) -> bytes:
    scheme, inner = split_scheme(path)
    if scheme not in ("", "file"):
        return hashlib.sha256(read_range(path, start, start + _BLOCK_BYTES)).digest()
    return retrying(partial(_hash_range, inner, start), path)


def _hash_range(path: str, start: int) -> bytes:
    digest, left = hashlib.sha256(), _BLOCK_BYTES
    with Path(path).open("rb", buffering=0) as file:
        file.seek(start)
        while piece := file.read(min(left, _PIECE_BYTES)):
            digest.update(piece)
            left -= len(piece)
    return digest.digest()


def _said_by_store(one: Content) -> str | None:
    """What an object's store says that it holds; None of a file on a disk, and where it says nothing."""
    if split_scheme(one.path)[0] in ("", "file"):
        return None
    system, inner = locate(one.path)

    def ask() -> dict[str, bytes]:
        with system.open_input_stream(inner) as stream:
            return {str(name).lower(): value for name, value in (stream.metadata() or {}).items()}

    said = retrying(ask, one.path)
    # Google's ETag changes with an object's every revision, so that a copy would be other data.
    names = ("etag",) if split_scheme(one.path)[0] == "s3" else ("md5hash", "crc32c")
    value = next((said[name] for name in names if said.get(name)), None)
    return None if value is None else hashlib.sha256(value + b" %d" % one.bytes).hexdigest()


def _read_ledger(path: str) -> dict[_Stamped, str]:
    if not exists(path):
        return {}
    try:
        rows = pq.read_table(pa.BufferReader(read_range(path)), page_checksum_verification=True).to_pydict()
        return dict(
            zip(zip(rows["path"], rows["bytes"], rows["stamp"], strict=True), rows["hash"], strict=True)
        )
    except (DataError, OSError, pa.ArrowException, KeyError):
        _LOGGER.warning("%s: is damaged; it is made again", path)
        return {}


def _write_ledger(path: str, hashes: dict[_Stamped, str]) -> None:
    paths, sizes, stamps = zip(*hashes, strict=True)
    rows = {"path": paths, "bytes": sizes, "stamp": stamps, "hash": tuple(hashes.values())}
    table = pa.table({name: list(values) for name, values in rows.items()})
    write_whole(path, partial(_write_table, table))


def _write_table(table: pa.Table, path: str) -> None:
    pq.write_table(table, path, write_page_checksum=True)
