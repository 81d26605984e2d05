"""Text to token ids and back: characters, bytes, words, a trained BPE, or any Hugging Face ``tokenizers`` file.

A tokenizer is JSON through and through (``to_json`` / ``tokenizer_from_json``), so that it travels with the
prepared data and with the model, and reading one runs no code.
"""

from __future__ import annotations

import json
from typing import Any

from orchestrator.data.preparations.tokenizers.base import (
    CLASSIFY,
    END,
    MASK,
    PAD,
    ROLES,
    SEPARATE,
    UNKNOWN,
    Marked,
    Tokenizer,
)
from orchestrator.data.preparations.tokenizers.library import (
    LibraryTokenizer,
    train_bpe,
    train_smiles,
    train_words,
    words_specials,
)
from orchestrator.data.preparations.tokenizers.simple import ByteTokenizer, CharacterTokenizer
from orchestrator.errors import DataError

__all__ = [
    "CLASSIFY",
    "END",
    "MASK",
    "PAD",
    "ROLES",
    "SEPARATE",
    "UNKNOWN",
    "ByteTokenizer",
    "CharacterTokenizer",
    "LibraryTokenizer",
    "Marked",
    "Tokenizer",
    "tokenizer_from_json",
    "train_bpe",
    "train_smiles",
    "train_words",
    "words_specials",
]


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
