"""Columns of text: their strings, and their tokens, made by as many processes as there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.preparations.places import place_of
from orchestrator.data.preparations.sequences import Documents
from orchestrator.data.preparations.tokenizers import (
    Tokenizer,
    tokenizer_from_json,
)
from orchestrator.data.sources.tables import one_column
from orchestrator.errors import DataError
from orchestrator.spec.preparations import (
    Pack,
    Tokenize,
)


def texts_of(columns: Sequence[str], tables: Iterable[pa.Table]) -> Iterator[str]:
    """The texts of some columns, one after the other."""
    for table in tables:
        for column in columns:
            yield from strings_of(table, column)


def strings_of(table: pa.Table, column: str) -> list[str]:
    """A table's texts. Raises DataError where the column isn't text."""
    values = named_column(table, column)
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise DataError(f"data.prepare: column {column!r} is {values.type}, not text")
    if values.null_count:
        row = int(pc.index(pc.is_null(values), True).as_py())
        raise DataError(f"{place_of(table, row)}: column {column!r} has no text there")
    return values.to_pylist()


def named_column(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column. Raises DataError with those there are."""
    try:
        return one_column(table, name)
    except DataError as error:
        raise DataError(f"data.prepare: {error}") from None


def tokenized(table: pa.Table, section: Pack | Tokenize, tokenizer_json: str) -> Documents:
    """The tokens of a table's texts; for ``map_in_order``, so by the tokenizer's JSON."""
    texts, tokenizer = strings_of(table, section.column), read_once(tokenizer_json)
    return Documents(tokenizer.encode(texts), tokenizer.words(texts) if section.word else None)


@lru_cache(maxsize=2)
def read_once(definition: str) -> Tokenizer:
    """A tokenizer, read once in each process that works on a corpus."""
    return tokenizer_from_json(definition)


def fixed_lists(values_NT: np.ndarray) -> pa.FixedSizeListArray:
    """A column of rows of one length."""
    return pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(values_NT).ravel()), values_NT.shape[1]
    )
