"""Documents of tokens into sequences of one length: packed without padding, or one document a row.

A sequence is cut from the stream of all documents, one after the other; its place in that stream is its identity,
so neither the number of workers nor of readers changes what a sequence holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.errors import DataError


@dataclass(frozen=True)
class Documents:
    """A batch of tokenized documents, in order.

    Args:
        ids: Each int (T,).
        words: Number of each token's word in its document, or None where nobody asks.
        answers: Whether each token is of an answer, likewise.
    """

    ids: Sequence[np.ndarray]
    words: Sequence[np.ndarray] | None = None
    answers: Sequence[np.ndarray] | None = None


@dataclass(frozen=True)
class Sequences:
    """Consecutive sequences of the stream; each array is int32 (N, T).

    Args:
        tokens: What the documents say.
        document: Number of each token's document, counted from 0 in each sequence.
        word: Number of each token's word, likewise; None where the documents had none.
        answer: Whether each token is of an answer; None where the documents didn't say.
    """

    tokens: np.ndarray
    document: np.ndarray
    word: np.ndarray | None
    answer: np.ndarray | None = None


def pack(
    batches: Iterable[Documents], *, length: int, stride: int, separator: int | None
) -> Iterator[Sequences]:
    """Cut the stream of all documents into sequences.

    Args:
        batches: All documents, in order.
        length: Tokens of a sequence; a causal model of context C takes C + 1 (inputs and the shifted targets).
        stride: Tokens from one sequence's first to the next one's; C for a causal model, so that each token is a
            target once; less makes sequences overlap. At most ``length``.
        separator: Token put after each document, or None.

    Returns:
        Batches of sequences. The last ``length - 1`` tokens at most, which fill no sequence, are left out.
    """
    if not 1 <= stride <= length:
        raise ValueError(f"stride {stride} must be from 1 to the sequence's length {length}")
    rest = np.empty((4, 0), dtype=np.int64)
    documents_before = 0
    for batch in batches:
        stream = np.concatenate([rest, _stream(batch, separator, documents_before)], axis=1)
        documents_before += len(batch.ids)
        count = max(0, (stream.shape[1] - length) // stride + 1)
        if count:
            windows = np.lib.stride_tricks.sliding_window_view(stream, length, axis=1)
            tokens, document, word, answer = windows[:, ::stride][:, :count]
            new_document = _changes(document)
            yield Sequences(
                tokens.astype(np.int32),
                np.cumsum(new_document, axis=1, dtype=np.int32),
                None
                if batch.words is None
                else np.cumsum(_changes(word) | new_document, axis=1, dtype=np.int32),
                None if batch.answers is None else answer > 0,
            )
        rest = stream[:, count * stride :]


def _stream(batch: Documents, separator: int | None, first_number: int) -> np.ndarray:
    """int64 (4, T): token, number of its document in the whole stream, number of its word in the document, whether it is of an
    answer.
    """
    lengths = np.fromiter((len(ids) for ids in batch.ids), dtype=np.int64, count=len(batch.ids))
    extra = 0 if separator is None else 1
    documents, empty = np.arange(len(lengths)), np.empty(0, dtype=np.int64)
    place = np.arange(lengths.sum()) + np.repeat(documents, lengths) * extra
    stream = np.full((4, lengths.sum() + extra * len(lengths)), -1, dtype=np.int64)
    if separator is not None:
        stream[0] = separator
    stream[0, place] = np.concatenate([empty, *batch.ids])
    stream[1] = first_number + np.repeat(documents, lengths + extra)
    if batch.words is not None:  # a separator keeps -1: a word of its own
        stream[2, place] = np.concatenate([empty, *batch.words])
    if batch.answers is not None:
        stream[3, place] = np.concatenate([empty, *batch.answers])
    return stream


def _changes(number_NT: np.ndarray) -> np.ndarray:
    """Whether each place's number is another than the one before it; never at the first."""
    return np.diff(number_NT, axis=1, prepend=number_NT[:, :1]) != 0


def longer_than(room: int, documents: Sequence[np.ndarray], what: str) -> dict[int, str]:
    """Documents with more tokens than there is room for: number -> what is wrong, for ``what`` (``the text``)."""
    return {
        row: f"{what} has {len(ids)} tokens, and {room} fit"
        for row, ids in enumerate(documents)
        if len(ids) > room
    }


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
    real = np.minimum(lengths, room)
    tokens = np.full((len(documents), length), pad, dtype=np.int32)
    first = int(begin is not None)
    if len(documents):
        flat = np.concatenate([ids[:n] for ids, n in zip(documents, real, strict=True)]).astype(np.int32)
        place = np.arange(room)[None, :] < real[:, None]
        tokens[:, first : first + room][place] = flat
    if begin is not None:
        tokens[:, 0] = begin
    if end is not None:
        tokens[np.arange(len(documents)), first + real] = end
    return tokens, (real + edges).astype(np.int32)


def smallest_token_type(vocabulary: int) -> np.dtype:
    """The narrowest unsigned integer type that holds every id: what packed files store."""
    return np.dtype(np.uint8 if vocabulary <= 1 << 8 else np.uint16 if vocabulary <= 1 << 16 else np.uint32)
