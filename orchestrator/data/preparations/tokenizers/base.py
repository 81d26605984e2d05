"""What every tokenizer can do, and the names of special tokens."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from orchestrator.errors import DataError

PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK, END = "<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "<end>"
"""Names of special tokens, as tokenizers fitted here write them."""
ROLES = ("<system>", "<user>", "<assistant>")
"""Those that begin the messages of a conversation."""


class Marked(NamedTuple):
    """A text in which special tokens are read as such."""

    ids: np.ndarray
    """int32 (T,)."""
    begins: np.ndarray
    """The place of each token's first character, int64 (T,)."""
    ends: np.ndarray
    """The place behind its last."""


class Tokenizer(Protocol):
    """Text to ids below ``vocabulary`` and back."""

    @property
    def vocabulary(self) -> int:
        """Number of ids."""
        ...

    @property
    def specials(self) -> Mapping[str, int]:
        """Ids of the special tokens that it has, by this module's names."""
        ...

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32 (T,), no special tokens added.

        Raises DataError where a text can't be written in the vocabulary.
        """
        ...

    @property
    def special_texts(self) -> Sequence[str]:
        """How its special tokens are spelled."""
        ...

    def encode_marked(self, texts: Sequence[str]) -> list[Marked]:
        """Ids of each text, special tokens that it spells among them. Raises DataError as ``encode``."""
        ...

    def words(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Number of each token's word in its text, int32 (T,), from 0 and never falling."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ids; special tokens are left out."""
        ...

    def token_bytes(self) -> np.ndarray | None:
        """UTF-8 bytes of text that each id stands for, int64 (vocabulary,), of special tokens none; None where ids don't spell
        all of a text out.
        """
        ...

    def to_json(self) -> str:
        """All of it."""
        ...


def encode_between(text: str, tokenizer: Tokenizer) -> Marked:
    """``encode_marked`` of a tokenizer that knows of no special tokens in a text, and has one character or byte a token."""
    pattern = "|".join(
        re.escape(special) for special in sorted(tokenizer.special_texts, key=len, reverse=True)
    )
    ids: list[int] = []
    begins: list[int] = []
    ends: list[int] = []
    at = 0
    for piece in re.split(f"({pattern})", text) if pattern else [text]:
        if piece in tokenizer.special_texts:
            parts = [(tokenizer.specials[piece], len(piece))]
        else:
            parts = [(token, 1) for token in tokenizer.encode([piece])[0].tolist()]
        if len(parts) > len(piece):  # bytes, of which a character has several
            bytes_of = [len(character.encode()) for character in piece]
            places = np.repeat(np.arange(len(piece)), bytes_of)
        else:
            places = np.arange(len(parts))
        ids += [token for token, _ in parts]
        begins += (at + places).tolist()
        ends += [at + int(place) + size for place, (_, size) in zip(places, parts, strict=True)]
        at += len(piece)
    return Marked(
        np.array(ids, dtype=np.int32), np.array(begins, dtype=np.int64), np.array(ends, dtype=np.int64)
    )


def not_empty(texts: Iterable[str], what: str) -> Iterable[str]:
    """The same texts. Raises DataError after the last where none has a character."""
    any_text = False
    for text in texts:
        any_text = any_text or bool(text)
        yield text
    if not any_text:
        raise DataError(f"the training text is empty, so {what} can't be fitted on it")


SPACES = np.frombuffer(b" \t\n\r\v\f", dtype=np.uint8)


def word_runs(is_space_T: np.ndarray) -> np.ndarray:
    """Number of the run of equal values that each place is in."""
    return np.cumsum(np.diff(is_space_T, prepend=is_space_T[:1]), dtype=np.int32)
