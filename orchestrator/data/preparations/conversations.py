"""Preparation ``conversations``: messages into tokens by a chat template, of which the assistant's answers are learned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.data.preparations.chat_template import (
    ANSWERING,
    OURS,
    ChatTemplate,
    Message,
    UnfitError,
    messages_of,
    refuse_spelled,
    template_beside,
    template_file,
)
from orchestrator.data.preparations.fit_tokenizer import (
    file_digest,
    fit_tokenizer,
    known_tokenizer,
    token_dims,
    token_lists,
)
from orchestrator.data.preparations.parallel import map_in_order
from orchestrator.data.preparations.places import refuse_first
from orchestrator.data.preparations.sequences import (
    Documents,
    longer_than,
    pack,
    pad_rows,
    smallest_token_type,
)
from orchestrator.data.preparations.text_columns import fixed_lists, named_column, read_once
from orchestrator.data.preparations.tokenizers import (
    END,
    PAD,
    ROLES,
    UNKNOWN,
    Marked,
    Tokenizer,
    tokenizer_from_json,
)
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.split import SourceRows
from orchestrator.errors import DataError
from orchestrator.spec.preparations import Conversations, FileTokenizer

_SPECIALS = (PAD, UNKNOWN, END, *ROLES)
_TRIED: tuple[Message, ...] = (
    {"role": "user", "content": "a"},
    {"role": ANSWERING, "content": "b"},
)


class ConversationsKind:
    """Messages into tokens."""

    version = 1
    places = True

    def fingerprint(self, section: Conversations, base_dir: str) -> str:
        """The contents of the tokenizer's file and of the template."""
        made = template_of(section, base_dir)
        template = hashlib.sha256(repr((made.source, made.variables)).encode()).hexdigest()
        return file_digest(section.tokenizer, base_dir) + template

    def columns(self, section: Conversations, schema: pa.Schema) -> tuple[str, ...]:
        """See PreparationKind."""
        return (section.column,)

    def required(self, section: Conversations) -> dict[str, bool]:
        """The messages."""
        return {section.column: False}

    def unfit(self, section: Conversations, base_dir: str, table: pa.Table) -> dict[int, str]:
        """Rows that are no conversations, or none that the template takes."""
        template, found = template_of(section, base_dir), {}
        for row, value in enumerate(named_column(table, section.column).to_pylist()):
            try:
                if value is not None:
                    template.rendered(usable_messages(value, template))
            except UnfitError as error:
                found[row] = f"the conversation in column {section.column!r} {error}"
        return found

    def too_long(self, section: Conversations, fitted: Mapping[str, Any], table: pa.Table) -> dict[int, str]:
        """Conversations that are too long, unless they are packed or cut."""
        if section.long == "cut" or section.packed:
            return {}
        template = template_learned(fitted, tokenizer_from_json(fitted["tokenizer"]))
        values = named_column(table, section.column).to_pylist()
        texts = [template.rendered(usable_messages(value, template)).text for value in values]
        return _too_long(section, read_once(fitted["tokenizer"]).encode_marked(texts))

    def cut(self, section: Conversations, source: SourceRows) -> None:
        """A row's number says of which part it is."""

    def notes(
        self, section: Conversations, fitted: Mapping[str, Any], indexes: Sequence[SourceIndex]
    ) -> tuple[str, ...]:
        """What an answer ends with, where the template does not say by itself."""
        if fitted["answer_end"] is not None:
            return ()
        return (
            "data.prepare: the chat template ends an answer with no special token, so a model does not learn where to stop",
        )

    def fit(self, section: Conversations, tables: Iterable[pa.Table], base_dir: str) -> dict[str, Any]:
        """The tokenizer, the template, and what an answer ends with."""
        template = template_of(section, base_dir)
        texts = (
            message["content"]
            for table in tables
            for value in named_column(table, section.column).to_pylist()
            for message in messages_of(value)
        )
        tokenizer = fit_tokenizer(section.tokenizer, _SPECIALS, texts, base_dir)
        return {
            "tokenizer": tokenizer.to_json(),
            "template": template.source,
            "variables": dict(template.variables),
            "answer_end": _answer_end(template, tokenizer),
        }

    def build(
        self, section: Conversations, fitted: Mapping[str, Any], tables: Iterable[pa.Table]
    ) -> Iterator[pa.Table]:
        """``tokens``, ``answer_mask``, and ``length``, or packed ``document``."""
        definition = fitted["tokenizer"]
        tokenizer = tokenizer_from_json(definition)
        width = smallest_token_type(tokenizer.vocabulary)
        template = template_learned(fitted, tokenizer)
        documents = map_in_order(_documents, tables, section, template, definition)
        if section.packed:
            length = section.context + 1
            for sequence in pack(documents, length=length, stride=section.context, separator=None):
                assert sequence.answer is not None
                columns = {
                    "tokens": sequence.tokens.astype(width),
                    "document": sequence.document,
                    "answer_mask": sequence.answer.astype(np.uint8),
                }
                yield pa.table({name: fixed_lists(values) for name, values in columns.items()})
            return
        for some in documents:
            assert some.answers is not None
            options: dict[str, Any] = {"length": section.context + 1, "long": "cut"}
            tokens, length_N = pad_rows(some.ids, pad=tokenizer.specials.get(PAD, 0), **options)
            mask, _ = pad_rows(some.answers, pad=0, **options)
            yield pa.table(
                {
                    "tokens": fixed_lists(tokens.astype(width)),
                    "length": pa.array(length_N),
                    "answer_mask": fixed_lists(mask.astype(np.uint8)),
                }
            )

    def dims(self, section: Conversations, fitted: Mapping[str, Any]) -> dict[str, int]:
        """``vocabulary`` and ``context``."""
        return token_dims(tokenizer_from_json(fitted["tokenizer"]), section.context)

    def lists(self, section: Conversations, fitted: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """``special_tokens``."""
        return token_lists(tokenizer_from_json(fitted["tokenizer"]))

    def dims_before(self, section: Conversations, base_dir: str) -> dict[str, int]:
        """What the section alone says; the vocabulary only where nothing has to be fitted."""
        tokenizer = known_tokenizer(section.tokenizer, _SPECIALS, base_dir)
        return token_dims(tokenizer, section.context, section.tokenizer)

    def lists_before(self, section: Conversations, base_dir: str) -> dict[str, tuple[int, ...]]:
        """``special_tokens``."""
        return token_lists(known_tokenizer(section.tokenizer, _SPECIALS, base_dir))


def template_of(section: Conversations, base_dir: str) -> ChatTemplate:
    """The section's template.

    Raises:
        DataError: it has none, or none that can be read.
    """
    specials = tuple(known_tokenizer(section.tokenizer, _SPECIALS, base_dir).special_texts)
    if not isinstance(section.tokenizer, FileTokenizer):
        own = OURS if section.template is None else template_file(section.template, base_dir)
        return ChatTemplate(own, (), specials)
    found, variables = template_beside(section.tokenizer.path, base_dir)
    if section.template is not None:
        found = template_file(section.template, base_dir)
    if found is None:
        raise DataError(
            f"data.prepare: there is no chat template beside {section.tokenizer.path} (chat_template.jinja, or chat_template in"
            " tokenizer_config.json); give template: FILE"
        )
    return ChatTemplate(found, tuple(sorted(variables.items())), specials)


def template_learned(learned: Mapping[str, Any], tokenizer: Tokenizer) -> ChatTemplate:
    """The template that a run was prepared with."""
    return ChatTemplate(
        learned["template"], tuple(sorted(learned["variables"].items())), tuple(tokenizer.special_texts)
    )


def usable_messages(value: Any, template: ChatTemplate) -> list[Message]:
    """A row's messages. Raises UnfitError."""
    messages = messages_of(value)
    refuse_spelled(messages, template.specials)
    return messages


def asked_text(value: Any, template: ChatTemplate) -> str:
    """What an answer to a conversation goes on from: all of it, but for the assistant's own last messages.

    Args:
        value: messages, their JSON, or a text, which is then what a user says.
        template: of the run.

    Raises:
        DataError: it is no conversation.
    """
    if isinstance(value, str) and not value.lstrip().startswith("["):
        value = [{"role": "user", "content": value}]
    try:
        messages = usable_messages(list(value) if isinstance(value, np.ndarray) else value, template)
        while messages and messages[-1]["role"] == ANSWERING:
            messages.pop()
        if not messages:
            raise UnfitError("has nothing to answer")
        return template.prompt(messages)
    except UnfitError as error:
        raise DataError(f"the conversation {error}") from None


def answer_mask(marked: Marked, answers: Sequence[tuple[int, int]]) -> np.ndarray:
    """Whether each token (T,) has a character of an answer."""
    mask = np.zeros(len(marked.ids), dtype=np.int32)
    for begin, end in answers:
        mask |= (marked.begins < end) & (marked.ends > begin)
    return mask


def _documents(table: pa.Table, section: Conversations, template: ChatTemplate, definition: str) -> Documents:
    """The tokens of a table's conversations; for ``map_in_order``, so by the tokenizer's JSON."""
    values = named_column(table, section.column).to_pylist()
    try:
        rendered = [template.rendered(usable_messages(value, template)) for value in values]
    except UnfitError as error:  # such rows were left out, or refused with their place
        raise DataError(f"data.prepare: a conversation {error}") from None
    marked = read_once(definition).encode_marked([one.text for one in rendered])
    if section.long == "error" and not section.packed:
        mend = "raise data.prepare.context, set packed: true, or long: cut to keep the first ones"
        refuse_first(table, _too_long(section, marked), mend)
    masks = [answer_mask(one, text.answers) for one, text in zip(marked, rendered, strict=True)]
    return Documents([one.ids for one in marked], answers=masks)


def _too_long(section: Conversations, marked: Sequence[Marked]) -> dict[int, str]:
    return longer_than(section.context + 1, [one.ids for one in marked], "the conversation")


def _answer_end(template: ChatTemplate, tokenizer: Tokenizer) -> int | None:
    """The special token that the template ends an answer with; None where it has none."""
    try:
        rendered = template.rendered(_TRIED)
    except UnfitError as error:
        raise DataError(f"data.prepare: a question and its answer {error}") from None
    begin, end = rendered.answers[-1]
    last = next((text for text in template.specials if rendered.text[begin:end].endswith(text)), None)
    return None if last is None else int(tokenizer.encode_marked([last])[0].ids[-1])
