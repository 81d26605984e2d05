"""Preparation ``pairs``: a text and what is to be made of it, each filled up to one length."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.data.preparations.fit_tokenizer import (
    file_digest,
    fit_tokenizer,
    known_tokenizer,
    token_dims,
    token_lists,
    vocabulary_before,
)
from orchestrator.data.preparations.parallel import map_in_order
from orchestrator.data.preparations.places import refuse_first
from orchestrator.data.preparations.sequences import longer_than, pad_rows, smallest_token_type
from orchestrator.data.preparations.smiles import bad_smiles
from orchestrator.data.preparations.text_columns import fixed_lists, read_once, strings_of, texts_of
from orchestrator.data.preparations.tokenizers import (
    CLASSIFY,
    END,
    PAD,
    UNKNOWN,
    Tokenizer,
    tokenizer_from_json,
)
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.split import SourceRows
from orchestrator.errors import DataError
from orchestrator.spec.preparations import Pairs, TokenizerSection


class PairsKind:
    """A text and what is to be made of it."""

    version = 1
    places = True

    def fingerprint(self, section: Pairs, base_dir: str) -> str:
        """The contents of the tokenizer files."""
        return "".join(file_digest(spec, base_dir) for spec in _tokenizer_sections(section))

    def columns(self, section: Pairs, schema: pa.Schema) -> tuple[str, ...]:
        """See PreparationKind."""
        return (section.source, section.target)

    def required(self, section: Pairs) -> dict[str, bool]:
        """Both texts, neither of them blank."""
        return {section.source: False, section.target: False}

    def unfit(self, section: Pairs, base_dir: str, table: pa.Table) -> dict[int, str]:
        """Pairs of which a side is to be a molecule and is none."""
        target = section.target_tokenizer or section.tokenizer
        return bad_smiles(table, {section.source: section.tokenizer, section.target: target})

    def too_long(self, section: Pairs, fitted: Mapping[str, Any], table: pa.Table) -> dict[int, str]:
        """Pairs of which a side is too long, unless it is cut."""
        if section.long == "cut":
            return {}
        found: dict[int, str] = {}
        for column, definition, context in (
            (section.target, target_definition(fitted), section.target_context or section.context),
            (section.source, fitted["tokenizer"], section.context),
        ):
            found |= _too_long(section, column, _encoded(table, column, definition), context)
        return found

    def cut(self, section: Pairs, source: SourceRows) -> None:
        """A row's number says of which part it is."""

    def notes(
        self, section: Pairs, fitted: Mapping[str, Any], indexes: Sequence[SourceIndex]
    ) -> tuple[str, ...]:
        """None."""
        return ()

    def fit(self, section: Pairs, tables: Iterable[pa.Table], base_dir: str) -> dict[str, Any]:
        """The tokenizer of both columns, or of each one its own."""
        specials = _special_tokens(section)
        if section.target_tokenizer is None:
            texts = texts_of((section.source, section.target), tables)
            shared = fit_tokenizer(section.tokenizer, specials, texts, base_dir)
            _refuse_without(shared, section)
            return {"tokenizer": shared.to_json()}
        sides = ((section.tokenizer, section.source), (section.target_tokenizer, section.target))
        own = [fit_tokenizer(spec, specials, texts_of((name,), tables), base_dir) for spec, name in sides]
        for tokenizer in own:
            _refuse_without(tokenizer, section)
        return {"tokenizer": own[0].to_json(), "target_tokenizer": own[1].to_json()}

    def build(
        self, section: Pairs, fitted: Mapping[str, Any], tables: Iterable[pa.Table]
    ) -> Iterator[pa.Table]:
        """``tokens`` and ``length`` of the source, ``target`` and ``target_length``."""
        definitions = fitted["tokenizer"], target_definition(fitted)
        yield from map_in_order(_rows, tables, section, *definitions)

    def dims(self, section: Pairs, fitted: Mapping[str, Any]) -> dict[str, int]:
        """``vocabulary``, ``context``, ``target_context``, ``start_token``, ``end_token``, and ``target_vocabulary`` where the
        target has a tokenizer of its own.
        """
        source, target = tokenizer_from_json(fitted["tokenizer"]), None
        if "target_tokenizer" in fitted:
            target = tokenizer_from_json(fitted["target_tokenizer"])
        dims = token_dims(source, section.context) | _target_dims(section, target or source)
        return dims if target is None else dims | {"target_vocabulary": target.vocabulary}

    def lists(self, section: Pairs, fitted: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """``special_tokens``."""
        return token_lists(tokenizer_from_json(fitted["tokenizer"]))

    def dims_before(self, section: Pairs, base_dir: str) -> dict[str, int]:
        """What the section alone says; a vocabulary only where nothing has to be fitted, or as it is asked for."""
        specials = _special_tokens(section)
        source = known_tokenizer(section.tokenizer, specials, base_dir)
        dims = token_dims(source, section.context, section.tokenizer)
        if section.target_tokenizer is None:
            return dims | _target_dims(section, source)
        target = known_tokenizer(section.target_tokenizer, specials, base_dir)
        size = vocabulary_before(target, section.target_tokenizer)
        return dims | _target_dims(section, target) | ({} if size is None else {"target_vocabulary": size})

    def lists_before(self, section: Pairs, base_dir: str) -> dict[str, tuple[int, ...]]:
        """``special_tokens``."""
        return token_lists(known_tokenizer(section.tokenizer, _special_tokens(section), base_dir))


def target_definition(fitted: Mapping[str, Any]) -> str:
    """The tokenizer of what is written, as JSON: the target's own, or the only one."""
    definition: str = fitted.get("target_tokenizer", fitted["tokenizer"])
    return definition


def _tokenizer_sections(section: Pairs) -> tuple[TokenizerSection, ...]:
    own = section.target_tokenizer
    return (section.tokenizer,) if own is None else (section.tokenizer, own)


def _special_tokens(section: Pairs) -> tuple[str, ...]:
    """The same ids for both sides."""
    return (PAD, UNKNOWN, END, CLASSIFY) if section.begin else (PAD, UNKNOWN, END)


def _target_dims(section: Pairs, target: Tokenizer) -> dict[str, int]:
    """A decoder begins with the token that fills up, as T5's does (Raffel et al. 2019, arXiv:1910.10683), else with the
    end token, as BART's.
    """
    end = target.specials.get(END, 0)
    return {
        "target_context": section.target_context or section.context,
        "start_token": target.specials.get(PAD, end),
        "end_token": end,
    }


def _refuse_without(tokenizer: Tokenizer, section: Pairs) -> None:
    if END not in tokenizer.specials:
        raise DataError(
            "data.prepare: the tokenizer file has no end-of-text token, which every text ends with"
        )
    if section.begin and CLASSIFY not in tokenizer.specials:
        raise DataError("data.prepare: the tokenizer file has no token to begin with; set begin: false")


def _rows(table: pa.Table, section: Pairs, source: str, target: str) -> pa.Table:
    """A table's pairs; for ``map_in_order``, so by the tokenizers' JSON."""
    tokens, length = _side(table, section, section.source, source, section.context)
    written, written_length = _side(
        table, section, section.target, target, section.target_context or section.context
    )
    return pa.table(
        {
            "tokens": fixed_lists(tokens),
            "length": pa.array(length),
            "target": fixed_lists(written),
            "target_length": pa.array(written_length),
        }
    )


def _side(
    table: pa.Table, section: Pairs, column: str, definition: str, context: int
) -> tuple[np.ndarray, np.ndarray]:
    tokenizer, ids = read_once(definition), _encoded(table, column, definition)
    if section.long == "error":
        name = "context" if column == section.source else "target_context"
        mend = f"raise data.prepare.{name}, set long: cut to keep the first ones"
        refuse_first(table, _too_long(section, column, ids, context), mend)
    tokens, length = pad_rows(
        ids,
        length=context,
        pad=tokenizer.specials.get(PAD, tokenizer.specials[END]),
        begin=tokenizer.specials[CLASSIFY] if section.begin else None,
        end=tokenizer.specials[END],
        long="cut",
    )
    return tokens.astype(smallest_token_type(tokenizer.vocabulary)), length


def _encoded(table: pa.Table, column: str, definition: str) -> list[np.ndarray]:
    """The tokens of a column's texts. Raises DataError where a text can't be written in the tokenizer's vocabulary."""
    try:
        return read_once(definition).encode(strings_of(table, column))
    except DataError as error:
        raise DataError(f"data.prepare: column {column!r}: {error}") from None


def _too_long(section: Pairs, column: str, ids: Sequence[np.ndarray], context: int) -> dict[int, str]:
    return longer_than(context - 1 - section.begin, ids, f"the text in column {column!r}")
