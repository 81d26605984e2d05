"""Preparation ``pack``: text into sequences of one length, without padding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from orchestrator.data.preparations.fit_tokenizer import (
    ENCODER_SPECIALS,
    file_digest,
    fit_tokenizer,
    known_tokenizer,
    token_dims,
    token_lists,
)
from orchestrator.data.preparations.parallel import map_in_order
from orchestrator.data.preparations.sequences import pack, smallest_token_type
from orchestrator.data.preparations.smiles import bad_smiles
from orchestrator.data.preparations.text_columns import (
    fixed_lists,
    texts_of,
    tokenized,
)
from orchestrator.data.preparations.tokenizers import (
    END,
    tokenizer_from_json,
)
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.split import SourceRows
from orchestrator.errors import DataError
from orchestrator.spec.preparations import (
    Pack,
)


class PackKind:
    """Text into sequences of one length."""

    version = 2
    places = False

    def fingerprint(self, section: Pack, base_dir: str) -> str:
        """A tokenizer file's content."""
        return file_digest(section.tokenizer, base_dir)

    def columns(self, section: Pack, schema: pa.Schema) -> tuple[str, ...]:
        """See PreparationKind."""
        return (section.column,)

    def required(self, section: Pack) -> dict[str, bool]:
        """A text, which may be blank."""
        return {section.column: True}

    def unfit(self, section: Pack, base_dir: str, table: pa.Table) -> dict[int, str]:
        """Texts that are to be molecules and are none."""
        return bad_smiles(table, {section.column: section.tokenizer})

    def too_long(self, section: Pack, fitted: Mapping[str, Any], table: pa.Table) -> dict[int, str]:
        """None: a text goes on in the next sequence."""
        return {}

    def cut(self, section: Pack, source: SourceRows) -> None:
        """A row's number says of which part it is."""

    def notes(
        self, section: Pack, fitted: Mapping[str, Any], indexes: Sequence[SourceIndex]
    ) -> tuple[str, ...]:
        """None."""
        return ()

    def fit(self, section: Pack, tables: Iterable[pa.Table], base_dir: str) -> dict[str, Any]:
        """The tokenizer."""
        tokenizer = fit_tokenizer(
            section.tokenizer, _special_tokens(section), texts_of((section.column,), tables), base_dir
        )
        if section.separator and END not in tokenizer.specials:
            raise DataError(
                "data.prepare: the tokenizer file has no end-of-text token to separate rows with; set separator: false"
            )
        return {"tokenizer": tokenizer.to_json()}

    def build(
        self, section: Pack, fitted: Mapping[str, Any], tables: Iterable[pa.Table]
    ) -> Iterator[pa.Table]:
        """Sequences ``tokens`` of unsigned integers, and what else was asked for."""
        tokenizer = tokenizer_from_json(fitted["tokenizer"])
        width = smallest_token_type(tokenizer.vocabulary)
        separator = tokenizer.specials[END] if section.separator else None
        documents = map_in_order(tokenized, tables, section, fitted["tokenizer"])
        sequences = pack(
            documents, length=section.sequence_length, stride=section.stride, separator=separator
        )
        for sequence in sequences:
            columns = {"tokens": sequence.tokens.astype(width)}
            if section.document:
                columns["document"] = sequence.document
            if sequence.word is not None:
                columns["word"] = sequence.word
            yield pa.table({name: fixed_lists(values) for name, values in columns.items()})

    def dims(self, section: Pack, fitted: Mapping[str, Any]) -> dict[str, int]:
        """``vocabulary``, ``context`` and, where there is one, ``mask_token``."""
        return token_dims(tokenizer_from_json(fitted["tokenizer"]), section.context)

    def lists(self, section: Pack, fitted: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """``special_tokens``."""
        return token_lists(tokenizer_from_json(fitted["tokenizer"]))

    def dims_before(self, section: Pack, base_dir: str) -> dict[str, int]:
        """What the section alone says; the vocabulary only where nothing has to be fitted."""
        tokenizer = known_tokenizer(section.tokenizer, _special_tokens(section), base_dir)
        return token_dims(tokenizer, section.context, section.tokenizer)

    def lists_before(self, section: Pack, base_dir: str) -> dict[str, tuple[int, ...]]:
        """``special_tokens``."""
        return token_lists(known_tokenizer(section.tokenizer, _special_tokens(section), base_dir))


def _special_tokens(section: Pack) -> tuple[str, ...]:
    if not section.next_token:
        return ENCODER_SPECIALS
    return (END,) if section.separator else ()
