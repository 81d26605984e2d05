"""Text to token ids and back: characters, bytes, words, a trained BPE, or any Hugging Face ``tokenizers`` file.

A tokenizer is JSON through and through (``to_json`` / ``tokenizer_from_json``), so that it travels with the
prepared data and with the model, and reading one runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from orchestrator.errors import DataError

PAD, UNKNOWN, CLASSIFY, SEPARATE, MASK, END = "<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "<end>"
"""Names of special tokens, as tokenizers fitted here write them."""

_ALIASES: dict[str, tuple[str, ...]] = {
    PAD: ("<pad>", "[PAD]", "<|pad|>", "<|endoftext|>", "</s>"),
    UNKNOWN: ("<unk>", "[UNK]"),
    CLASSIFY: ("<cls>", "[CLS]", "<s>"),
    SEPARATE: ("<sep>", "[SEP]", "</s>"),
    MASK: ("<mask>", "[MASK]"),
    END: ("<end>", "<|endoftext|>", "<|end_of_text|>", "</s>", "[SEP]"),
}
"""What other people's tokenizer files call the same tokens, in order of preference."""


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

    def to_json(self) -> str:
        """All of it."""
        ...


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

    def words(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See Tokenizer. A word is what stands between white space, or the white space."""
        return [_runs(np.isin(np.frombuffer(text.encode(), dtype=np.uint8), _SPACES)) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """See Tokenizer. Bytes that are no UTF-8 become U+FFFD."""
        return bytes(token for token in tokens if 0 <= token < 256).decode(errors="replace")

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

    def words(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See Tokenizer. A word is what stands between white space, or the white space."""
        return [_runs(np.isin(_code_points(text), _SPACES)) for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        """See Tokenizer. An unknown character becomes U+FFFD."""
        first, unknown = len(self.specials), self.specials.get(UNKNOWN)
        return "".join(
            "\ufffd" if token == unknown else self.characters[token - first]
            for token in tokens
            if token == unknown or first <= token < self.vocabulary
        )

    def to_json(self) -> str:
        """See Tokenizer."""
        return json.dumps(
            {"kind": "characters", "characters": self.characters, "specials": list(self.specials)}
        )


class LibraryTokenizer:
    """A Hugging Face ``tokenizers`` JSON file (https://github.com/huggingface/tokenizers)."""

    def __init__(self, definition: str) -> None:
        from tokenizers import Tokenizer as Library

        try:
            self._library = Library.from_str(definition)
        except Exception as error:  # the library raises bare Exception
            raise DataError(
                f"this is not a Hugging Face tokenizers file (tokenizer.json): {error}"
            ) from error
        self._library.no_padding()
        self._library.no_truncation()
        self._library.encode_special_tokens = True  # text that spells a special token stays text
        self._definition = definition
        self.specials = {
            name: found for name, aliases in _ALIASES.items() if (found := self._first(aliases)) is not None
        }

    def _first(self, aliases: Sequence[str]) -> int | None:
        return next((i for alias in aliases if (i := self._library.token_to_id(alias)) is not None), None)

    @property
    def vocabulary(self) -> int:
        """Ids, those of added tokens with them."""
        return int(max(self._library.get_vocab(with_added_tokens=True).values(), default=-1)) + 1

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See Tokenizer. Runs on all cores."""
        encoded = self._library.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(item.ids, dtype=np.int32) for item in encoded]

    def words(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See Tokenizer. A word is what the file's pre-tokenizer says."""
        encoded = self._library.encode_batch(list(texts), add_special_tokens=False)
        return [np.asarray(item.word_ids, dtype=np.int32) for item in encoded]

    def decode(self, tokens: Sequence[int]) -> str:
        """See Tokenizer."""
        return str(self._library.decode([int(token) for token in tokens], skip_special_tokens=True))

    def to_json(self) -> str:
        """See Tokenizer."""
        return json.dumps({"kind": "library", "definition": json.loads(self._definition)})


def train_bpe(texts: Iterable[str], vocabulary: int, specials: Sequence[str] = ()) -> LibraryTokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909; bytes as in Radford et al. 2019).

    Args:
        texts: The training text.
        vocabulary: Ids at most, special tokens with them; at least 256 and the special tokens.
        specials: Special tokens; they get the first ids.

    Raises:
        DataError: Too small a vocabulary, or no text.
    """
    from tokenizers import Tokenizer as Library
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if vocabulary < 256 + len(specials):
        raise DataError(
            f"a bpe vocabulary of {vocabulary} is too small: 256 bytes and {len(specials)} special tokens come"
            f" first, so give at least {256 + len(specials)}"
        )
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator(_not_empty(texts, "a bpe tokenizer"), trainer)
    return LibraryTokenizer(library.to_str())


def train_words(
    texts: Iterable[str], vocabulary: int, specials: Sequence[str] = (), *, lowercase: bool = False
) -> LibraryTokenizer:
    """The most frequent words and punctuation marks; all others are ``<unk>``.

    Words are split at white space and punctuation; text written as ``<unk>`` in a corpus stays one token.
    """
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Library

    library = Library(models.WordLevel(unk_token=UNKNOWN))
    if lowercase:
        library.normalizer = normalizers.Lowercase()
    library.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"<\w+>|\w+|[^\w\s]|\n"), behavior="removed", invert=True
    )
    library.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    trainer = trainers.WordLevelTrainer(
        vocab_size=vocabulary,
        special_tokens=list(words_specials(specials)),
        show_progress=False,
    )
    library.train_from_iterator(_not_empty(texts, "a words tokenizer"), trainer)
    return LibraryTokenizer(library.to_str())


def words_specials(specials: Sequence[str]) -> tuple[str, ...]:
    """The special tokens of a words tokenizer, in the order of their ids: it always has ``UNKNOWN``."""
    return tuple(dict.fromkeys((*specials, UNKNOWN)))


def tokenizer_from_json(text: str) -> Tokenizer:
    """What ``to_json`` wrote. Raises DataError where it is something else."""
    try:
        content: dict[str, Any] = json.loads(text)
        kind = content["kind"]
        if kind == "bytes":
            return ByteTokenizer(content["specials"])
        if kind == "characters":
            return CharacterTokenizer(content["characters"], content["specials"])
        if kind == "library":
            return LibraryTokenizer(json.dumps(content["definition"]))
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise DataError(f"this is not a tokenizer that trainwright saved: {error!r}") from error
    raise DataError(f"this is not a tokenizer that trainwright saved: its kind is {str(kind)[:40]!r}")


def _not_empty(texts: Iterable[str], what: str) -> Iterable[str]:
    found = False
    for text in texts:
        found = found or bool(text)
        yield text
    if not found:
        raise DataError(f"the training text is empty, so {what} can't be fitted on it")


_SPACES = np.frombuffer(b" \t\n\r\v\f", dtype=np.uint8)


def _runs(is_space_T: np.ndarray) -> np.ndarray:
    """Number of the run of equal values that each place is in."""
    return np.cumsum(np.diff(is_space_T, prepend=is_space_T[:1]), dtype=np.int32)


def _code_points(text: str) -> np.ndarray:
    """Unicode code points (T,) uint32; lone surrogates pass through."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
