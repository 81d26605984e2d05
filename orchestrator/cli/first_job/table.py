"""A table with something to predict, or with nothing but numbers to compress: transforms by what its columns hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from orchestrator.cli.first_job.columns import Answer, Column, answer_of, guess_label
from orchestrator.cli.first_job.draft import Draft, flow_list, scalar, training_length
from orchestrator.cli.first_job.source import Found
from orchestrator.errors import DataError

_MANY = 60
"""Columns of numbers that are named one by one; more are ``"*"`` where none is left out."""


def table_draft(found: Found, columns: Sequence[Column], asked: str | None) -> Draft:
    """An MLP that predicts the label, or an autoencoder where nothing looks like one. Raises DataError."""
    label, why = guess_label(columns, found.sample.num_rows, asked)
    taken = [one for one in columns if one is not label]
    numbers, categories, dates = (_of(taken, role) for role in ("number", "category", "date"))
    if not (numbers or categories or dates):
        left = "; ".join(f"{one.name}: {one.reason or one.role}" for one in taken)
        raise DataError(f"{found.index.root}: no column can be learned from ({left or 'there is one alone'})")
    if label is None:
        categories = []  # what an autoencoder gives back is numbers
    notes = [*found.found, *_left_out(taken, label), *_treated(numbers, categories, dates)]
    answer = None
    if label is not None:
        answer = answer_of(label, found.sample.column(label.name), found.index.kind)
        notes.insert(0, f"to predict: {label.name} ({why}); {answer.words}")
    else:
        notes.insert(
            0, "nothing looks like what is to be predicted, so an autoencoder; or name a column with --label"
        )
    mapping = ["columns:", *_mapping(numbers, categories, dates, label, found)]
    steps = list(_transforms(numbers, categories, dates, label, answer))
    return Draft(
        "mlp" if label is not None else "autoencoder",
        found.lines,
        [*mapping, *(["transforms:", *steps] if steps else [])],
        evaluation=found.evaluation,
        objective=answer.objective if answer else "",
        found=notes,
        length=training_length(found.train_rows),
    )


def _of(columns: Sequence[Column], role: str) -> list[Column]:
    return [one for one in columns if one.role == role]


def _left_out(columns: Sequence[Column], label: Column | None) -> Iterator[str]:
    for one in columns:
        if one.role == "left":
            yield f"left out: {one.name}, because {one.reason}"
        elif one.role == "text":
            yield f"left out: {one.name}, which is text; a model of language reads it (data.prepare: {{kind: tokenize}})"
        elif one.role == "image":
            yield f"left out: {one.name}, which holds bytes"
        elif one.role == "category" and label is None:
            yield f"left out: {one.name}, which holds words; an autoencoder gives numbers back"


def _treated(
    numbers: Sequence[Column], categories: Sequence[Column], dates: Sequence[Column]
) -> Iterator[str]:
    if gaps := [one.name for one in (*numbers, *dates) if one.missing]:
        yield (
            f"numbers are missing in {', '.join(gaps)}: filled with the column's median of the training rows, beside a"
            " column that says where"
        )
    if gaps := [one.name for one in categories if one.missing]:
        yield f"words are missing in {', '.join(gaps)}: that is a category of its own"
    if dates:
        yield f"dates in {', '.join(one.name for one in dates)}: made numbers, as parts that come again and days"


def _mapping(
    numbers: Sequence[Column],
    categories: Sequence[Column],
    dates: Sequence[Column],
    label: Column | None,
    found: Found,
) -> Iterator[str]:
    names = [one.name for one in numbers]
    left = any(one not in (*numbers, *categories, *dates, label) for one in found.sample.column_names)
    if names:
        whole = len(names) > _MANY and not left
        yield f"  features: {chr(34) + '*' + chr(34) if whole else flow_list(names, 4)}"
    if categories:
        yield f"  categories: {flow_list([one.name for one in categories], 4)}"
    for tensor, group in _date_groups(dates):
        yield f"  {tensor}: {flow_list([one.name for one in group], 4)}"
    if label is not None:
        yield f"  label: {scalar(label.name)}"


def _date_groups(dates: Sequence[Column]) -> list[tuple[str, list[Column]]]:
    """Dates that are written alike make one tensor."""
    groups: dict[tuple[str | None, bool], list[Column]] = {}
    for one in dates:
        groups.setdefault((one.format, one.hours), []).append(one)
    return [("dates" if n == 0 else f"dates{n + 1}", group) for n, group in enumerate(groups.values())]


def _transforms(
    numbers: Sequence[Column],
    categories: Sequence[Column],
    dates: Sequence[Column],
    label: Column | None,
    answer: Answer | None,
) -> Iterator[str]:
    if label is not None and label.missing:
        yield "  - {kind: drop, tensor: label}   # rows without an answer teach nothing; plan says how many"
    groups = _date_groups(dates)
    for tensor, group in groups:
        parts = "[year, month, weekday, hour, days]" if group[0].hours else "[year, month, weekday, days]"
        written = f', format: "{group[0].format}"' if group[0].format else ""
        yield f"  - {{kind: date, tensor: {tensor}, parts: {parts}{written}}}"
    if groups:
        yield f"  - {{kind: join, tensor: features, append: [{', '.join(name for name, _ in groups)}]}}"
    if any(one.missing for one in (*numbers, *dates)):
        yield "  - {kind: impute, tensor: features, by: median, indicator: true}   # or mean, constant"
    if numbers or dates:
        yield "  - {kind: normalize, tensor: features, per: element}   # fitted on the training rows only"
    if any(one.missing for one in categories):
        yield "  - {kind: impute, tensor: categories, by: category}"
    if categories:
        yield "  - {kind: encode, tensor: categories, unseen: unknown}   # words that no training row has get one number"
    if answer is not None and answer.encode:
        yield "  - {kind: encode, tensor: label" + (", unseen: unknown}" if answer.rare else "}")
