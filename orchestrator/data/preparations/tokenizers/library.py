"""Tokenizers of Hugging Face's library: read from a file, or trained here (byte-level BPE, words)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from orchestrator.data.preparations.tokenizers.base import (
    CLASSIFY,
    END,
    MASK,
    PAD,
    SEPARATE,
    UNKNOWN,
    Marked,
    not_empty,
)
from orchestrator.errors import DataError

_ALIASES: dict[str, tuple[str, ...]] = {
    PAD: ("<pad>", "[PAD]", "<|pad|>", "<|endoftext|>", "</s>"),
    UNKNOWN: ("<unk>", "[UNK]"),
    CLASSIFY: ("<cls>", "[CLS]", "<s>"),
    SEPARATE: ("<sep>", "[SEP]", "</s>"),
    MASK: ("<mask>", "[MASK]"),
    END: ("<end>", "<|endoftext|>", "<|end_of_text|>", "</s>", "[SEP]"),
}
"""What other people's tokenizer files call the same tokens, in order of preference."""


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
            name: token for name, aliases in _ALIASES.items() if (token := self._first(aliases)) is not None
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

    @property
    def special_texts(self) -> Sequence[str]:
        """See Tokenizer."""
        added = json.loads(self._definition).get("added_tokens", [])
        return tuple(token["content"] for token in added if token["special"])

    def encode_marked(self, texts: Sequence[str]) -> list[Marked]:
        """See Tokenizer."""
        self._library.encode_special_tokens = False
        try:
            encoded = self._library.encode_batch(list(texts), add_special_tokens=False)
        finally:
            self._library.encode_special_tokens = True
        return [
            Marked(
                np.asarray(item.ids, dtype=np.int32),
                *np.asarray(item.offsets, dtype=np.int64).reshape(-1, 2).T,
            )
            for item in encoded
        ]

    def words(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See Tokenizer. A word is what the file's pre-tokenizer says."""
        encoded = self._library.encode_batch(list(texts), add_special_tokens=False)
        return [np.asarray(item.word_ids, dtype=np.int32) for item in encoded]

    def decode(self, tokens: Sequence[int]) -> str:
        """See Tokenizer."""
        return str(self._library.decode([int(token) for token in tokens], skip_special_tokens=True))

    def token_bytes(self) -> np.ndarray | None:
        """See Tokenizer. Of byte-level ones that change no text: a character of their tokens is a byte."""
        content = json.loads(self._definition)
        if content.get("normalizer") or not _is_byte_level(content):
            return None
        sizes = np.zeros(self.vocabulary, dtype=np.int64)
        for token, number in self._library.get_vocab(with_added_tokens=False).items():
            sizes[number] = len(token)
        for added in content.get("added_tokens", []):
            sizes[added["id"]] = 0 if added["special"] else len(added["content"].encode())
        return sizes

    def to_json(self) -> str:
        """See Tokenizer."""
        return json.dumps({"kind": "library", "definition": json.loads(self._definition)})

    def files(
        self, *, context: int, first: str | None, last: str | None = None, template: str | None = None
    ) -> dict[str, str]:
        """What ``AutoTokenizer`` reads, so that it makes the same tokens: name -> text.

        Args:
            context: tokens that the model reads at most.
            first: the special token that is put before each text.
            last: likewise after it.
            template: how a conversation becomes a text.
        """
        from tokenizers import Tokenizer as Library
        from tokenizers.processors import TemplateProcessing

        library = Library.from_str(self._definition)
        library.no_padding()
        library.no_truncation()
        named = {name: library.id_to_token(token) for name, token in self.specials.items()}
        around = [name for name in (first, last) if name is not None]
        parts = [*((named[first],) if first else ()), "$A", *((named[last],) if last else ())]
        library.post_processor = TemplateProcessing(
            single=" ".join(parts),
            special_tokens=[(named[name], self.specials[name]) for name in dict.fromkeys(around)],
        )
        kinds = {PAD: "pad_token", UNKNOWN: "unk_token", CLASSIFY: "cls_token", SEPARATE: "sep_token"}
        kinds |= {MASK: "mask_token", END: "eos_token"}
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": context,
            "split_special_tokens": template is None,
        }
        if template is not None:
            config["chat_template"] = template
        config |= {theirs: named[name] for name, theirs in kinds.items() if name in named}
        return {"tokenizer.json": library.to_str(), "tokenizer_config.json": json.dumps(config)}


def _is_byte_level(content: dict[str, Any]) -> bool:
    """Whether text becomes bytes, with none before it, and bytes become text."""
    before, after = (list(_steps(content.get(name))) for name in ("pre_tokenizer", "decoder"))
    adds_none = all(not step.get("add_prefix_space") for step in before)
    return adds_none and all(any(step["type"] == "ByteLevel" for step in steps) for steps in (before, after))


def _steps(section: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """A section's parts, where it is a sequence of several."""
    for part in (section or {}).get("pretokenizers") or (section or {}).get("decoders") or [section]:
        if part is not None:
            yield part


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
    library.train_from_iterator(not_empty(texts, "a bpe tokenizer"), trainer)
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
    library.train_from_iterator(not_empty(texts, "a words tokenizer"), trainer)
    return LibraryTokenizer(library.to_str())


def words_specials(specials: Sequence[str]) -> tuple[str, ...]:
    """The special tokens of a words tokenizer, in the order of their ids: it always has ``UNKNOWN``."""
    return tuple(dict.fromkeys((*specials, UNKNOWN)))


def train_smiles(texts: Iterable[str], specials: Sequence[str] = ()) -> LibraryTokenizer:
    """Parts of molecules in SMILES (Weininger 1988): atoms in brackets, elements of two letters and rings of two digits are one
    token, all else is one for each character; what the texts lack is ``<unk>``.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Library

    library = Library(models.WordLevel(unk_token=UNKNOWN))
    library.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\[[^\]]*\]|Br|Cl|%\d\d|."), behavior="removed", invert=True
    )
    library.decoder = decoders.Fuse()
    trainer = trainers.WordLevelTrainer(special_tokens=list(words_specials(specials)), show_progress=False)
    library.train_from_iterator(not_empty(texts, "a smiles tokenizer"), trainer)
    return LibraryTokenizer(library.to_str())
