"""Text: a language model, or, beside a label, a classifier of texts."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from orchestrator.cli.first_job.columns import Column, answer_of, guess_label
from orchestrator.cli.first_job.draft import Draft, scalar, training_length
from orchestrator.cli.first_job.source import Found

_CHARACTERS_BELOW = 300_000
"""Characters of a text from which it is cut into pieces of words."""


def text_draft(found: Found, column: str) -> Draft:
    """A GPT that continues the text."""
    values = found.sample.column(column)
    length = pc.sum(pc.utf8_length(values)).as_py() or 0
    whole = length if found.rows == found.sample.num_rows else length * 4
    if whole < _CHARACTERS_BELOW:
        tokenizer, tokens = "{kind: characters, unknown: true}", whole
        why = f"{whole:,} characters are few, so each is a token; for pieces of words: {{kind: bpe, vocabulary: 4096}}"
    else:
        tokenizer, tokens = "{kind: bpe, vocabulary: 4096}", whole // 4
        why = "the vocabulary is learned from the training text: byte-pair encoding"
    context = next((size for size in (64, 32, 16, 8) if tokens // size >= 40), 8)
    lines = ["prepare:", "  kind: pack", f"  tokenizer: {tokenizer}", f"  context: {context}"]
    if column != "text":
        lines.insert(2, f"  column: {scalar(column)}")
    sizes = training_length(max(4, tokens * 4 // 5 // context))
    return Draft(
        "gpt",
        found.lines,
        lines,
        evaluation=found.evaluation or "{kind: split, fraction: 0.2}",
        found=["text alone, so a model that continues it (gpt)", *found.found, why],
        length=sizes,
    )


def labeled_text_draft(found: Found, columns: Sequence[Column], asked: str | None) -> Draft | None:
    """A recurrent classifier where a column is text and no other can be learned from; None where that is not so."""
    texts = [one for one in columns if one.role == "text"]
    if not texts:
        return None
    text = texts[0]
    label, why = guess_label([one for one in columns if one not in texts], found.sample.num_rows, asked)
    rest = [one for one in columns if one.role in ("number", "category", "date") and one is not label]
    if label is None:
        return text_draft(found, text.name)
    answer = answer_of(label, found.sample.column(label.name), found.index.kind)
    if rest or answer.objective != "classification" or not _classes(label):
        return None
    words = pc.mean(pc.count_substring(found.sample.column(text.name), " ")).as_py() + 1
    context = next((size for size in (32, 64, 128) if words * 1.5 <= size), 128)
    lines = [
        "prepare:",
        "  kind: tokenize",
        f"  column: {scalar(text.name)}",
        "  tokenizer: {kind: words, vocabulary: 4000, lowercase: true}",
        f"  context: {context}",
        "  classify: false",
        f"  label: {scalar(label.name)}",
    ]
    notes = [
        f"to predict: {label.name} ({why}); {answer.words}",
        f"text: {text.name}, {words:.0f} words on average, read word by word (gru; or bert with classify: true)",
        *found.found,
    ]
    others = [one.name for one in columns if one not in (text, label)]
    if others:
        notes.append(f"left out: {', '.join(others)}")
    return Draft(
        "gru",
        found.lines,
        lines,
        evaluation=found.evaluation,
        objective="classification",
        found=notes,
        length=training_length(found.train_rows),
    )


def _classes(label: Column) -> bool:
    return not pa.types.is_floating(label.kind)
