"""Documents of tokens into blocks of one length: packed without padding, or one document a row.

A block is cut from the stream of all documents, one after the other; its place in that stream is its identity,
so neither the number of workers nor of readers changes what a block holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.errors import DataError


@dataclass(frozen=True)
class Blocks:
    """Consecutive blocks of the stream.

    Args:
        tokens: int32 (N, T).
        document: int32 (N, T): number of the token's document, counted from 0 in each block.
    """

    tokens: np.ndarray
    document: np.ndarray


def pack(
    documents: Iterable[Sequence[np.ndarray]], *, length: int, stride: int, separator: int | None
) -> Iterator[Blocks]:
    """Cut the stream of all documents into blocks.

    Args:
        documents: Batches of documents, each int (T,), in order.
        length: Tokens of a block; a causal model of context C takes C + 1 (inputs and the shifted targets).
        stride: Tokens from one block's first to the next one's; C for a causal model, so that each token is a
            target once; less makes blocks overlap. At most ``length``.
        separator: Token put after each document, or None.

    Returns:
        Batches of blocks. The last ``length - 1`` tokens at most, which fill no block, are left out.
    """
    if not 1 <= stride <= length:
        raise ValueError(f"stride {stride} must be from 1 to the block's length {length}")
    tail = np.empty(0, dtype=np.int32)
    tail_numbers = np.empty(0, dtype=np.int64)
    seen = 0
    for batch in documents:
        pieces, numbers = [tail], [tail_numbers]
        for ids in batch:
            end = [] if separator is None else [separator]
            whole = np.concatenate([np.asarray(ids, dtype=np.int32), np.asarray(end, dtype=np.int32)])
            pieces.append(whole)
            numbers.append(np.full(len(whole), seen, dtype=np.int64))
            seen += 1
        stream, number = np.concatenate(pieces), np.concatenate(numbers)
        count = max(0, (len(stream) - length) // stride + 1)
        if count:
            view = np.lib.stride_tricks.sliding_window_view
            tokens = view(stream, length)[::stride][:count]
            document = view(number, length)[::stride][:count]
            yield Blocks(tokens.copy(), _counted_from_zero(document))
        tail, tail_numbers = stream[count * stride :], number[count * stride :]


def _counted_from_zero(number_NT: np.ndarray) -> np.ndarray:
    """Document numbers of the whole stream to numbers within each block; empty documents leave no gap."""
    step = np.diff(number_NT, axis=1, prepend=number_NT[:, :1]) != 0
    return np.cumsum(step, axis=1, dtype=np.int32)


def pad_rows(
    documents: Sequence[np.ndarray],
    *,
    length: int,
    pad: int,
    begin: int | None = None,
    end: int | None = None,
    long: str = "error",
) -> tuple[np.ndarray, np.ndarray]:
    """One document a row, filled up to one length.

    Args:
        documents: Each int (T,).
        length: Tokens of a row, with ``begin`` and ``end``.
        pad: Token that fills up.
        begin: Token put first, or None.
        end: Token put last, or None.
        long: What becomes of a longer document: ``error``, or ``cut`` to its first tokens.

    Returns:
        tokens int32 (N, length), and how many of each row are real, int32 (N,).

    Raises:
        DataError: A document is longer and ``long`` is ``error``.
    """
    edges = (begin is not None) + (end is not None)
    room = length - edges
    lengths = np.fromiter((len(ids) for ids in documents), dtype=np.int64, count=len(documents))
    if long == "error" and len(lengths) and lengths.max() > room:
        raise DataError(
            f"{int((lengths > room).sum())} of {len(lengths)} texts have more than {room} tokens (the longest"
            f" {int(lengths.max())}): raise the preparation's length, or set long: cut to keep the first ones"
        )
    kept = np.minimum(lengths, room)
    tokens = np.full((len(documents), length), pad, dtype=np.int32)
    first = int(begin is not None)
    if len(documents):
        flat = np.concatenate([ids[:n] for ids, n in zip(documents, kept, strict=True)]).astype(np.int32)
        place = np.arange(room)[None, :] < kept[:, None]
        tokens[:, first : first + room][place] = flat
    if begin is not None:
        tokens[:, 0] = begin
    if end is not None:
        tokens[np.arange(len(documents)), first + kept] = end
    return tokens, (kept + edges).astype(np.int32)


def smallest_token_type(vocabulary: int) -> np.dtype:
    """The narrowest unsigned integer type that holds every id: what packed files store."""
    return np.dtype(np.uint8 if vocabulary <= 1 << 8 else np.uint16 if vocabulary <= 1 << 16 else np.uint32)
