"""Tokenizers as a job's preparation asks for them: read from a file, fitted on the training text, or known beforehand."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from orchestrator.data.files import read_range
from orchestrator.data.preparations.tokenizers import (
    CLASSIFY,
    END,
    MASK,
    PAD,
    UNKNOWN,
    ByteTokenizer,
    CharacterTokenizer,
    LibraryTokenizer,
    Tokenizer,
    tokenizer_from_json,
    train_bpe,
    train_smiles,
    train_words,
    words_specials,
)
from orchestrator.errors import DataError
from orchestrator.spec.preparations import (
    BpeTokenizer,
    BytesTokenizer,
    CharactersTokenizer,
    FileTokenizer,
    SmilesTokenizer,
    TokenizerSection,
    WordsTokenizer,
)
from orchestrator.storage import absolute

ENCODER_SPECIALS = (PAD, UNKNOWN, CLASSIFY, END, MASK)
"""Special tokens of tokenizers fitted for bidirectional encoders: the same for masked training and for what is
trained after it, so that the ids agree."""


def fit_tokenizer(
    spec: TokenizerSection, specials: Sequence[str], texts: Iterable[str], base_dir: str
) -> Tokenizer:
    """The section's tokenizer, fitted on the texts where it is one that is fitted.

    Args:
        specials: Special tokens that a fitted one gets.
        texts: Of the training rows.
    """
    match spec:
        case CharactersTokenizer():
            return CharacterTokenizer.fitted(texts, _character_specials(spec, specials))
        case WordsTokenizer():
            return train_words(texts, spec.vocabulary, specials, lowercase=spec.lowercase)
        case BpeTokenizer():
            return train_bpe(texts, spec.vocabulary, specials)
        case SmilesTokenizer():
            return train_smiles(texts, specials)
        case _:
            return known_tokenizer(spec, specials, base_dir)


def known_tokenizer(spec: TokenizerSection, specials: Sequence[str], base_dir: str) -> Tokenizer:
    """The tokenizer if nothing has to be fitted, else one with the same special tokens and no text."""
    match spec:
        case FileTokenizer():
            return load_tokenizer_file(spec.path, base_dir)
        case BytesTokenizer():
            return ByteTokenizer(specials)
        case CharactersTokenizer():
            return CharacterTokenizer("", _character_specials(spec, specials))
        case WordsTokenizer() | SmilesTokenizer():
            return CharacterTokenizer("", words_specials(specials))
        case BpeTokenizer():
            return CharacterTokenizer("", specials)


def _character_specials(section: CharactersTokenizer, specials: Sequence[str]) -> tuple[str, ...]:
    return (*specials, UNKNOWN) if section.unknown and UNKNOWN not in specials else tuple(specials)


def load_tokenizer_file(path: str, base_dir: str) -> Tokenizer:
    """A tokenizer that trainwright saved, or a Hugging Face one. Raises DataError."""
    where = absolute(path, base_dir)
    content = read_range(where).decode(errors="replace")
    try:
        return (
            tokenizer_from_json(content)
            if content.lstrip()[:8].startswith('{"kind"')
            else LibraryTokenizer(content)
        )
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def file_digest(spec: TokenizerSection, base_dir: str) -> str:
    """Hash of the tokenizer file's content; empty where there is none."""
    if not isinstance(spec, FileTokenizer):
        return ""
    return hashlib.sha256(read_range(absolute(spec.path, base_dir))).hexdigest()


def token_dims(
    tokenizer: Tokenizer, context: int, unfitted: TokenizerSection | None = None
) -> dict[str, int]:
    """Sizes; of a section whose tokenizer is still to be fitted, the vocabulary it asks for, if it says one."""
    dims = {"context": context}
    if MASK in tokenizer.specials:
        dims["mask_token"] = tokenizer.specials[MASK]
    size = vocabulary_before(tokenizer, unfitted)
    return dims if size is None else dims | {"vocabulary": size}


def vocabulary_before(tokenizer: Tokenizer, unfitted: TokenizerSection | None = None) -> int | None:
    """The tokenizer's vocabulary; of one that is still to be fitted what it is asked for, None where nothing says it."""
    if unfitted is None or isinstance(unfitted, BytesTokenizer | FileTokenizer):
        return tokenizer.vocabulary
    return unfitted.vocabulary if isinstance(unfitted, WordsTokenizer | BpeTokenizer) else None


def token_lists(tokenizer: Tokenizer) -> dict[str, tuple[int, ...]]:
    """The ids that no text stands for."""
    never = {i for name, i in tokenizer.specials.items() if name != UNKNOWN}
    return {"special_tokens": tuple(sorted(never))}
