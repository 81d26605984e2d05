"""Conversations as one text, by a chat template: as ``transformers`` renders it, and where the assistant's answers stand in it.

A template is Jinja in a sandbox. It may mark answers by ``{% generation %}``; of one that does not, an answer is what its message
adds to the conversation before it, up to the last special token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from orchestrator.data.files import exists, read_range
from orchestrator.errors import DataError
from orchestrator.storage import absolute

Message = Mapping[str, Any]

ANSWERING = "assistant"
"""The role whose messages are learned."""
OURS = (
    "{% for message in messages %}"
    "{% if message.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('there are the roles system, user and assistant') }}"
    "{% endif %}"
    "<{{ message.role }}>{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}<end>{% endgeneration %}"
    "{% else %}{{ message.content }}<end>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""The template of tokenizers that are made here."""
_BEGIN, _END = "\ufdd0", "\ufdd1"
"""Around answers while they are looked for: code points that no text has (Unicode's noncharacters)."""
_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class UnfitError(Exception):
    """A conversation that can't be used; its text is the end of a sentence."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as text."""

    text: str
    answers: tuple[tuple[int, int], ...]
    """Where each answer begins and ends, in characters; its end token is in it."""


@dataclass(frozen=True)
class ChatTemplate:
    """How messages become text."""

    source: str
    """Jinja."""
    variables: tuple[tuple[str, str], ...]
    """What it may name beside the messages: ``bos_token`` and the like."""
    specials: tuple[str, ...]
    """Texts of special tokens, which no message may spell."""

    def rendered(self, messages: Sequence[Message]) -> Rendered:
        """A whole conversation, of which at least one message is an answer.

        Raises:
            UnfitError: the template does not take it.
        """
        if not any(message["role"] == ANSWERING for message in messages):
            raise UnfitError("has no message of the assistant, whose answers are learned")
        if "generation" in self.source:
            marked = self._render(messages, prompt=False)
            if _BEGIN in marked:
                return _without_marks(marked)
        return self._by_parts(messages)

    def prompt(self, messages: Sequence[Message]) -> str:
        """What an answer goes on from. Raises UnfitError."""
        return _without_marks(self._render(messages, prompt=True)).text

    def _by_parts(self, messages: Sequence[Message]) -> Rendered:
        text, answers = self._render(messages, prompt=False), []
        for place, message in enumerate(messages):
            if message["role"] != ANSWERING:
                continue
            before = self._render(messages[:place], prompt=True)
            upto = self._render(messages[: place + 1], prompt=False)
            if not upto.startswith(before) or not text.startswith(upto):
                raise UnfitError(
                    f"can't be parted: the chat template writes message {place} in another way once others follow, so where"
                    " the answer stands is not known; mark answers in it by {% generation %}"
                )
            answers.append((len(before), len(before) + self._ended(upto[len(before) :])))
        return Rendered(text, tuple(answers))

    def _ended(self, answer: str) -> int:
        """Where an answer ends: after its last special token, where it has one."""
        ends = [answer.rfind(special) + len(special) for special in self.specials if special in answer]
        return max(ends, default=len(answer))

    def _render(self, messages: Sequence[Message], *, prompt: bool) -> str:
        from jinja2 import TemplateError

        try:
            text: str = _compiled(self.source).render(
                messages=list(messages), add_generation_prompt=prompt, **dict(self.variables)
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            raise UnfitError(f"is refused by the chat template: {error}") from None
        return text


def _without_marks(marked: str) -> Rendered:
    text, answers, begin = "", [], 0
    for piece in re.split(f"([{_BEGIN}{_END}])", marked):
        if piece == _BEGIN:
            begin = len(text)
        elif piece == _END:
            answers.append((begin, len(text)))
        else:
            text += piece
    return Rendered(text, tuple(answers))


@lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    """Raises DataError where it is no template."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}``: marks what it holds."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

        def _marked(self, caller: Any) -> str:
            return f"{_BEGIN}{caller()}{_END}"

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = (
        refuse  # today's date is not given: it would make other samples tomorrow
    )
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise DataError(f"data.prepare: the chat template can't be read: {error}") from None


def _to_json(value: Any, indent: int | None = None) -> str:
    """As ``transformers`` has it: Jinja's own escapes what HTML would read."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def messages_of(value: Any) -> list[Message]:
    """The messages of a row: a list of structs, or its JSON. Raises UnfitError."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise UnfitError("is no JSON") from None
    if not isinstance(value, list) or not value:
        raise UnfitError("is no list of messages" if not isinstance(value, list) else "has no messages")
    return [_message(place, one) for place, one in enumerate(value)]


def _message(place: int, given: Any) -> Message:
    if not isinstance(given, dict):
        raise UnfitError(f"has a message {place} that is no object with role and content")
    message = {name: value for name, value in given.items() if value is not None}
    for name in ("role", "content"):
        if not isinstance(message.get(name), str):
            raise UnfitError(f"has a message {place} whose {name} is {_said(message.get(name))}, not a text")
    if not message["content"].strip():
        raise UnfitError(f"has a message {place} whose content is empty")
    return message


def _said(value: Any) -> str:
    return "missing" if value is None else json.dumps(value, default=str)[:40]


def refuse_spelled(messages: Sequence[Message], specials: Sequence[str]) -> None:
    """Raises UnfitError where a message spells what ends or begins one."""
    for place, message in enumerate(messages):
        for special in (*specials, _BEGIN, _END):
            if special in message["content"] or special in message["role"]:
                raise UnfitError(
                    f"has a message {place} that spells the special token {special!r}, which would be read as one"
                )


def template_beside(tokenizer: str, base_dir: str) -> tuple[str | None, dict[str, str]]:
    """The chat template of a tokenizer's folder, and the special tokens that templates name.

    Args:
        tokenizer: path of ``tokenizer.json``.
        base_dir: what it is relative to.

    Raises:
        DataError: its ``tokenizer_config.json`` is no JSON.
    """
    folder = str(PurePosixPath(tokenizer).parent)
    name = f"{folder}/tokenizer_config.json"
    try:
        config = json.loads(_text(name, base_dir) or "{}")
    except ValueError as error:
        raise DataError(f"{name} can't be read: {error}") from None
    found = _text(f"{folder}/chat_template.jinja", base_dir) or config.get("chat_template")
    if isinstance(found, list):
        found = next((one["template"] for one in found if one.get("name") == "default"), None)
    named = {name: config[name] for name in _NAMED if config.get(name)}
    return found, {name: one["content"] if isinstance(one, dict) else one for name, one in named.items()}


def _text(path: str, base_dir: str) -> str | None:
    """A file's text; None where there is none."""
    where = absolute(path, base_dir)
    return read_range(where).decode(errors="replace") if exists(where) else None


def template_file(path: str, base_dir: str) -> str:
    """A template of its own. Raises DataError."""
    return read_range(absolute(path, base_dir)).decode(errors="replace")
