"""Preparation ``tokenize``: a text a row, filled up to one length."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.data.categories import encode_categories, fit_categories
from orchestrator.data.preparations.fit_tokenizer import (
    ENCODER_SPECIALS,
    file_digest,
    fit_tokenizer,
    known_tokenizer,
    token_dims,
    token_lists,
)
from orchestrator.data.preparations.parallel import map_in_order
from orchestrator.data.preparations.places import place_of, refuse_first
from orchestrator.data.preparations.sequences import longer_than, pad_rows, smallest_token_type
from orchestrator.data.preparations.smiles import bad_smiles
from orchestrator.data.preparations.text_columns import (
    fixed_lists,
    named_column,
    texts_of,
    tokenized,
)
from orchestrator.data.preparations.tokenizers import (
    CLASSIFY,
    PAD,
    tokenizer_from_json,
)
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.split import SourceRows
from orchestrator.errors import DataError
from orchestrator.spec.preparations import (
    Tokenize,
)


class TokenizeKind:
    """A text a row."""

    version = 2
    places = True

    def fingerprint(self, section: Tokenize, base_dir: str) -> str:
        """A tokenizer file's content."""
        return file_digest(section.tokenizer, base_dir)

    def columns(self, section: Tokenize, schema: pa.Schema) -> tuple[str, ...]:
        """See PreparationKind."""
        return tuple(
            dict.fromkeys((section.column, *((section.label,) if section.label else section.numbers)))
        )

    def required(self, section: Tokenize) -> dict[str, bool]:
        """A text, which may be blank, and a class, which may not."""
        return {section.column: True} | ({section.label: False} if section.label is not None else {})

    def unfit(self, section: Tokenize, base_dir: str, table: pa.Table) -> dict[int, str]:
        """Texts that are to be molecules and are none."""
        return bad_smiles(table, {section.column: section.tokenizer})

    def too_long(self, section: Tokenize, fitted: Mapping[str, Any], table: pa.Table) -> dict[int, str]:
        """Texts that are too long, unless they are cut."""
        if section.long == "cut":
            return {}
        return _too_long(section, tokenized(table, section, fitted["tokenizer"]).ids)

    def cut(self, section: Tokenize, source: SourceRows) -> None:
        """A row's number says of which part it is."""

    def notes(
        self, section: Tokenize, fitted: Mapping[str, Any], indexes: Sequence[SourceIndex]
    ) -> tuple[str, ...]:
        """None."""
        return ()

    def fit(self, section: Tokenize, tables: Iterable[pa.Table], base_dir: str) -> dict[str, Any]:
        """The tokenizer and the classes."""
        tokenizer = fit_tokenizer(
            section.tokenizer, ENCODER_SPECIALS, texts_of((section.column,), tables), base_dir
        )
        if section.classify and CLASSIFY not in tokenizer.specials:
            raise DataError(
                "data.prepare: the tokenizer file has no classification token; set classify: false"
            )
        fitted: dict[str, Any] = {"tokenizer": tokenizer.to_json()}
        if section.label is not None:
            distinct = [pc.unique(named_column(table, section.label)) for table in tables]
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
            ours, map_in_order(tokenized, theirs, section, fitted["tokenizer"]), strict=True
        ):
            if section.long == "error":
                mend = "raise data.prepare.context, set long: cut to keep the first ones"
                refuse_first(table, _too_long(section, documents.ids), mend)
            tokens, length = pad_rows(documents.ids, length=section.context, pad=pad, begin=begin, long="cut")
            columns = {"tokens": fixed_lists(tokens.astype(width)), "length": pa.array(length)}
            if documents.words is not None:
                shifted = [word + 1 for word in documents.words] if section.classify else documents.words
                word, _ = pad_rows(
                    shifted, length=section.context, pad=-1, begin=0 if section.classify else None, long="cut"
                )
                columns["word"] = fixed_lists(word)
            if section.label is not None:
                columns["label"] = pa.array(_labels(table, section.label, fitted["classes"]))
            if section.numbers:
                columns["label"] = _numbers(table, section.numbers)
            yield pa.table(columns)

    def dims(self, section: Tokenize, fitted: Mapping[str, Any]) -> dict[str, int]:
        """``vocabulary``, ``context``, ``mask_token`` and, with labels, ``outputs``."""
        dims = token_dims(tokenizer_from_json(fitted["tokenizer"]), section.context)
        outputs = len(fitted["classes"]) if "classes" in fitted else len(section.numbers)
        return dims | ({"outputs": outputs} if outputs else {})

    def lists(self, section: Tokenize, fitted: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """``special_tokens``."""
        return token_lists(tokenizer_from_json(fitted["tokenizer"]))

    def dims_before(self, section: Tokenize, base_dir: str) -> dict[str, int]:
        """What the section alone says; the vocabulary only where nothing has to be fitted."""
        tokenizer = known_tokenizer(section.tokenizer, ENCODER_SPECIALS, base_dir)
        dims = token_dims(tokenizer, section.context, section.tokenizer)
        return dims | ({"outputs": len(section.numbers)} if section.numbers else {})

    def lists_before(self, section: Tokenize, base_dir: str) -> dict[str, tuple[int, ...]]:
        """``special_tokens``."""
        return token_lists(known_tokenizer(section.tokenizer, ENCODER_SPECIALS, base_dir))


def _too_long(section: Tokenize, ids: Sequence[np.ndarray]) -> dict[int, str]:
    return longer_than(section.context - section.classify, ids, f"the text in column {section.column!r}")


def _labels(table: pa.Table, name: str, classes: Sequence[Any]) -> np.ndarray:
    """The class of each row. Raises DataError with file and row of one that no training row has."""
    column = named_column(table, name)
    try:
        return encode_categories(column, classes, name)
    except DataError as error:
        for row in range(table.num_rows):
            try:
                encode_categories(column.slice(row, 1), classes, name)
            except DataError:
                raise DataError(f"{place_of(table, row)}: {error}") from None
        raise


def _numbers(table: pa.Table, names: Sequence[str]) -> pa.Array:
    """Float32, of each row one number or a list of them; NaN where there is none. Raises DataError for what is no number."""
    columns = []
    for name in names:
        column = named_column(table, name)
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise DataError(
                f"data.prepare.numbers: column {name!r} is {column.type}, not numbers; to tell classes apart name it as"
                " label"
            )
        columns.append(pc.fill_null(pc.cast(column, pa.float32()), float("nan")).to_numpy())
    return pa.array(columns[0]) if len(names) == 1 else fixed_lists(np.stack(columns, axis=1))


def _flat(arrays: Sequence[pa.Array | pa.ChunkedArray]) -> list[pa.Array]:
    return [
        chunk
        for array in arrays
        for chunk in (array.chunks if isinstance(array, pa.ChunkedArray) else [array])
    ]
