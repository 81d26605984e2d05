"""Tokenizers that need no library: bytes, and characters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np

from orchestrator.data.preparations.tokenizers.base import (
    SPACES,
    UNKNOWN,
    Marked,
    encode_between,
    word_runs,
)
from orchestrator.errors import DataError


class ByteTokenizer:
    """UTF-8 bytes: ids 0-255, then special tokens. Nothing to fit and nothing unknown."""

    def __init__(self, specials: Sequence[str] = ()) -> None:
        self.specials = {name: 256 + index for index, name in enumerate(specials)}

    @property
    def vocabulary(self) -> int:
        """256 and the special tokens."""
        return 256 + len(self.specials)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See Tokenizer."""
        return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32) for text in texts]

    @property
    def special_texts(self) -> Sequence[str]:
        """See Tokenizer."""
        return tuple(self.specials)

    def encode_marked(self, texts: Sequence[str]) -> list[Marked]:
        """See Tokenizer."""
        return [encode_between(text, self) for text in texts]

    def words(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See Tokenizer. A word is what stands between white space, or the white space."""
        return [word_runs(np.isin(np.frombuffer(text.encode(), dtype=np.uint8), SPACES)) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """See Tokenizer. Bytes that are no UTF-8 become U+FFFD."""
        return bytes(token for token in tokens if 0 <= token < 256).decode(errors="replace")

    def token_bytes(self) -> np.ndarray | None:
        """See Tokenizer."""
        return (np.arange(self.vocabulary) < 256).astype(np.int64)

    def to_json(self) -> str:
        """See Tokenizer."""
        return json.dumps({"kind": "bytes", "specials": list(self.specials)})


class CharacterTokenizer:
    """Special tokens, then the sorted characters of the training text.

    Args:
        characters: Every character that has an id, sorted.
        specials: Special tokens; with ``UNKNOWN`` among them, other characters become it, else they are an error.
    """

    def __init__(self, characters: str, specials: Sequence[str] = ()) -> None:
        self.characters = characters
        self.specials = {name: index for index, name in enumerate(specials)}
        codes = _code_points(characters)
        self._table = np.full(int(codes.max(initial=0)) + 2, -1, dtype=np.int32)
        self._table[codes] = len(specials) + np.arange(len(characters), dtype=np.int32)

    @classmethod
    def fitted(cls, texts: Iterable[str], specials: Sequence[str] = ()) -> CharacterTokenizer:
        """All characters of ``texts``. Raises DataError where there are none."""
        characters: set[str] = set()
        for text in texts:
            characters.update(text)
        if not characters:
            raise DataError("the training text is empty, so there are no characters to fit a tokenizer on")
        return cls("".join(sorted(characters)), specials)

    @property
    def vocabulary(self) -> int:
        """The characters and the special tokens."""
        return len(self.characters) + len(self.specials)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See Tokenizer."""
        codes = _code_points("".join(texts))
        ids: np.ndarray = self._table[np.minimum(codes, len(self._table) - 1)]
        missing = ids < 0
        if missing.any():
            if UNKNOWN not in self.specials:
                strange = sorted({chr(code) for code in codes[missing]})
                raise DataError(
                    f"{int(missing.sum())} characters are not in the training text's vocabulary, for example "
                    f"{', '.join(map(repr, strange[:5]))}: set unknown: true beside the tokenizer's kind,"
                    " or use kind: bytes"
                )
            ids = np.where(missing, np.int32(self.specials[UNKNOWN]), ids)
        return np.split(ids, np.cumsum([len(text) for text in texts])[:-1]) if texts else []

    @property
    def special_texts(self) -> Sequence[str]:
        """See Tokenizer."""
        return tuple(self.specials)

    def encode_marked(self, texts: Sequence[str]) -> list[Marked]:
        """See Tokenizer."""
        return [encode_between(text, self) for text in texts]

    def words(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See Tokenizer. A word is what stands between white space, or the white space."""
        return [word_runs(np.isin(_code_points(text), SPACES)) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """See Tokenizer. An unknown character becomes U+FFFD."""
        first, unknown = len(self.specials), self.specials.get(UNKNOWN)
        return "".join(
            "\ufffd" if token == unknown else self.characters[token - first]
            for token in tokens
            if token == unknown or first <= token < self.vocabulary
        )

    def token_bytes(self) -> np.ndarray | None:
        """See Tokenizer. None where other characters may become one that is unknown."""
        if UNKNOWN in self.specials:
            return None
        sizes = [0] * len(self.specials) + [len(character.encode()) for character in self.characters]
        return np.array(sizes, dtype=np.int64)

    def to_json(self) -> str:
        """See Tokenizer."""
        return json.dumps(
            {"kind": "characters", "characters": self.characters, "specials": list(self.specials)}
        )


def _code_points(text: str) -> np.ndarray:
    """Unicode code points (T,) uint32; lone surrogates pass through."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
