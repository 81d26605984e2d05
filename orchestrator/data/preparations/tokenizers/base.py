"""What every tokenizer can do, and the names of special tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np

from orchestrator.errors import DataError

PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK, END = "<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "<end>"
"""Names of special tokens, as tokenizers fitted here write them."""


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
