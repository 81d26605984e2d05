"""Preparations of text: ``pack`` (blocks without padding) and ``tokenize`` (a text a row)."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.categories import encode_categories, fit_categories
from orchestrator.data.files import read_range
from orchestrator.data.preparations.packing import Documents, pack, pad_rows, smallest_token_type
from orchestrator.data.preparations.parallel import map_in_order
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
    train_words,
    words_specials,
)
from orchestrator.errors import DataError
from orchestrator.spec.preparations import (
    BpeTokenizer,
    BytesTokenizer,
    CharactersTokenizer,
    FileTokenizer,
    Pack,
    Tokenize,
    WordsTokenizer,
)
from orchestrator.storage import absolute

_ENCODER_SPECIALS = (PAD, UNKNOWN, CLASSIFY, END, MASK)
"""Special tokens of tokenizers fitted for bidirectional encoders: the same for masked training and for what is
trained after it, so that the ids agree."""


class PackKind:
    """Text into blocks of one length."""

    version = 1

    def fingerprint(self, section: Pack, base_dir: str) -> str:
        """A tokenizer file's content."""
        return _file_digest(section, base_dir)

    def columns(self, section: Pack) -> tuple[str, ...]:
        """See PreparationKind."""
        return (section.column,)

    def fit(self, section: Pack, tables: Iterable[pa.Table], base_dir: str) -> dict[str, Any]:
        """The tokenizer."""
        tokenizer = _fit_tokenizer(section, _block_specials(section), tables, base_dir)
        if section.separator and END not in tokenizer.specials:
            raise DataError(
                "data.prepare: the tokenizer file has no end-of-text token to separate rows with; set separator: false"
            )
        return {"tokenizer": tokenizer.to_json()}

    def build(
        self, section: Pack, fitted: Mapping[str, Any], tables: Iterable[pa.Table]
    ) -> Iterator[pa.Table]:
        """Blocks ``tokens`` of unsigned integers, and what else was asked for."""
        tokenizer = tokenizer_from_json(fitted["tokenizer"])
        width = smallest_token_type(tokenizer.vocabulary)
        separator = tokenizer.specials[END] if section.separator else None
        documents = map_in_order(_tokenized, tables, section, fitted["tokenizer"])
        blocks = pack(documents, length=section.block_length, stride=section.stride, separator=separator)
        for block in blocks:
            columns = {"tokens": block.tokens.astype(width)}
            if section.document:
                columns["document"] = block.document
            if block.word is not None:
                columns["word"] = block.word
            yield pa.table({name: fixed_lists(values) for name, values in columns.items()})

    def dims(self, section: Pack, fitted: Mapping[str, Any]) -> dict[str, int]:
        """``vocabulary``, ``context`` and, where there is one, ``mask_token``."""
        return _token_dims(tokenizer_from_json(fitted["tokenizer"]), section.context)

    def lists(self, section: Pack, fitted: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """``special_tokens``."""
        return _token_lists(tokenizer_from_json(fitted["tokenizer"]))

    def dims_before(self, section: Pack, base_dir: str) -> dict[str, int]:
        """What the section alone says; the vocabulary only where nothing has to be fitted."""
        tokenizer = _known_tokenizer(section, _block_specials(section), base_dir)
        return _token_dims(tokenizer, section.context, section)

    def lists_before(self, section: Pack, base_dir: str) -> dict[str, tuple[int, ...]]:
        """``special_tokens``."""
        return _token_lists(_known_tokenizer(section, _block_specials(section), base_dir))


class TokenizeKind:
    """A text a row."""

    version = 1

    def fingerprint(self, section: Tokenize, base_dir: str) -> str:
        """A tokenizer file's content."""
        return _file_digest(section, base_dir)

    def columns(self, section: Tokenize) -> tuple[str, ...]:
        """See PreparationKind."""
        return (section.column,) if section.label is None else (section.column, section.label)

    def fit(self, section: Tokenize, tables: Iterable[pa.Table], base_dir: str) -> dict[str, Any]:
        """The tokenizer and the classes."""
        tokenizer = _fit_tokenizer(section, _ENCODER_SPECIALS, tables, base_dir)
        if section.classify and CLASSIFY not in tokenizer.specials:
            raise DataError(
                "data.prepare: the tokenizer file has no classification token; set classify: false"
            )
        fitted: dict[str, Any] = {"tokenizer": tokenizer.to_json()}
        if section.label is not None:
            distinct = [pc.unique(_column(table, section.label)) for table in tables]
            fitted["classes"] = fit_categories(pa.chunked_array(_flat(distinct)), section.label)
        return fitted

    def build(
        self, section: Tokenize, fitted: Mapping[str, Any], tables: Iterable[pa.Table]
    ) -> Iterator[pa.Table]:
        """``tokens``, ``length``, and ``label`` and ``word`` if asked for."""
        tokenizer = tokenizer_from_json(fitted["tokenizer"])
        width = smallest_token_type(tokenizer.vocabulary)
        pad = tokenizer.specials.get(PAD, 0)
        begin = tokenizer.specials[CLASSIFY] if section.classify else None
        ours, theirs = itertools.tee(tables)  # one ahead of the other by as many tables as are under way
        for table, documents in zip(
            ours, map_in_order(_tokenized, theirs, section, fitted["tokenizer"]), strict=True
        ):
            tokens, length = pad_rows(
                documents.ids, length=section.context, pad=pad, begin=begin, long=section.long
            )
            columns = {"tokens": fixed_lists(tokens.astype(width)), "length": pa.array(length)}
            if documents.words is not None:
                shifted = [word + 1 for word in documents.words] if section.classify else documents.words
                word, _ = pad_rows(
                    shifted, length=section.context, pad=-1, begin=0 if section.classify else None, long="cut"
                )
                columns["word"] = fixed_lists(word)
            if section.label is not None:
                labels = encode_categories(_column(table, section.label), fitted["classes"], section.label)
                columns["label"] = pa.array(labels)
            yield pa.table(columns)

    def dims(self, section: Tokenize, fitted: Mapping[str, Any]) -> dict[str, int]:
        """``vocabulary``, ``context``, ``mask_token`` and, with labels, ``outputs``."""
        dims = _token_dims(tokenizer_from_json(fitted["tokenizer"]), section.context)
        return dims | ({"outputs": len(fitted["classes"])} if "classes" in fitted else {})

    def lists(self, section: Tokenize, fitted: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """``special_tokens``."""
        return _token_lists(tokenizer_from_json(fitted["tokenizer"]))

    def dims_before(self, section: Tokenize, base_dir: str) -> dict[str, int]:
        """What the section alone says; the vocabulary only where nothing has to be fitted."""
        return _token_dims(_known_tokenizer(section, _ENCODER_SPECIALS, base_dir), section.context, section)

    def lists_before(self, section: Tokenize, base_dir: str) -> dict[str, tuple[int, ...]]:
        """``special_tokens``."""
        return _token_lists(_known_tokenizer(section, _ENCODER_SPECIALS, base_dir))


def fixed_lists(values_NT: np.ndarray) -> pa.FixedSizeListArray:
    """A column of rows of one length."""
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(values_NT).ravel()), values_NT.shape[1]
    )


def _block_specials(section: Pack) -> tuple[str, ...]:
    if not section.next_token:
        return _ENCODER_SPECIALS
    return (END,) if section.separator else ()


def _fit_tokenizer(
    section: Pack | Tokenize, specials: Sequence[str], tables: Iterable[pa.Table], base_dir: str
) -> Tokenizer:
    texts, wanted = _texts(section.column, tables), section.tokenizer
    match wanted:
        case CharactersTokenizer():
            return CharacterTokenizer.fitted(texts, _character_specials(wanted, specials))
        case WordsTokenizer():
            return train_words(texts, wanted.vocabulary, specials, lowercase=wanted.lowercase)
        case BpeTokenizer():
            return train_bpe(texts, wanted.vocabulary, specials)
        case _:
            return _known_tokenizer(section, specials, base_dir)


def _known_tokenizer(section: Pack | Tokenize, specials: Sequence[str], base_dir: str) -> Tokenizer:
    """The tokenizer if nothing has to be fitted, else one with the same special tokens and no text."""
    wanted = section.tokenizer
    match wanted:
        case FileTokenizer():
            return load_tokenizer_file(wanted.path, base_dir)
        case BytesTokenizer():
            return ByteTokenizer(specials)
        case CharactersTokenizer():
            return CharacterTokenizer("", _character_specials(wanted, specials))
        case WordsTokenizer():
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


def _file_digest(section: Pack | Tokenize, base_dir: str) -> str:
    wanted = section.tokenizer
    if not isinstance(wanted, FileTokenizer):
        return ""
    return hashlib.sha256(read_range(absolute(wanted.path, base_dir))).hexdigest()


def _texts(column: str, tables: Iterable[pa.Table]) -> Iterator[str]:
    for table in tables:
        yield from _strings(table, column)


def _strings(table: pa.Table, column: str) -> list[str]:
    values = _column(table, column)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise DataError(f"data.prepare: column {column!r} is {values.type}, not text")
    return pc.fill_null(values, "").to_pylist()


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise DataError(
            f"data.prepare: there is no column {name!r}; the data has {', '.join(table.column_names)}"
        )
    return table[name]


def _tokenized(table: pa.Table, section: Pack | Tokenize, tokenizer_json: str) -> Documents:
    texts, tokenizer = _strings(table, section.column), _tokenizer(tokenizer_json)
    return Documents(tokenizer.encode(texts), tokenizer.words(texts) if section.word else None)


@lru_cache(maxsize=2)
def _tokenizer(definition: str) -> Tokenizer:
    """Read once in each process that works on a corpus."""
    return tokenizer_from_json(definition)


def _flat(arrays: Sequence[pa.Array | pa.ChunkedArray]) -> list[pa.Array]:
    return [
        chunk
        for array in arrays
        for chunk in (array.chunks if isinstance(array, pa.ChunkedArray) else [array])
    ]


def _token_dims(
    tokenizer: Tokenizer, context: int, unfitted: Pack | Tokenize | None = None
) -> dict[str, int]:
    """Sizes; of a section whose tokenizer is still to be fitted, the vocabulary it asks for, if it says one."""
    dims = {"context": context}
    if MASK in tokenizer.specials:
        dims["mask_token"] = tokenizer.specials[MASK]
    wanted = None if unfitted is None else unfitted.tokenizer
    if wanted is None or isinstance(wanted, BytesTokenizer | FileTokenizer):
        return dims | {"vocabulary": tokenizer.vocabulary}
    if isinstance(wanted, WordsTokenizer | BpeTokenizer):
        return dims | {"vocabulary": wanted.vocabulary}
    return dims


def _token_lists(tokenizer: Tokenizer) -> dict[str, tuple[int, ...]]:
    never = {i for name, i in tokenizer.specials.items() if name != UNKNOWN}
    return {"special_tokens": tuple(sorted(never))}
