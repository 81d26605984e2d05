"""The folder that predictions are written to: what they are of, which parts are there, and that all are.

::

    <output>/_predictions.json       what they are of; created once: whoever goes on must write the same
    <output>/part-000000.parquet     the predictions for one group of rows, named by its place
    <output>/_SUCCESS                written last, where all parts are there

Tools that read folders of Parquet pass over names that begin with ``_``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from orchestrator.errors import InfrastructureError, SpecError
from orchestrator.inference.task import PredictTask
from orchestrator.section import Section
from orchestrator.storage import store_at
from orchestrator.storage.faults import first_line

MADE_OF, COMPLETE = "_predictions.json", "_SUCCESS"
_PART = re.compile(r"part-(\d{6,})\.parquet")


class MadeOf(Section):
    """What a folder's predictions are of: equal ones give equal files."""

    run: str
    """The run that trained the model."""
    step: int
    """Of its checkpoint."""
    attempt: int
    """Of its checkpoint."""
    averaged: bool
    """Whether by averages of its weights."""
    data: str
    """Identity of the data: what its files hold, and how it is read."""
    path: str
    """Where the data was; another place is no other data."""
    parts: int
    """Files that there are in the end."""
    kept: tuple[str, ...]
    """Columns of the data beside the predictions."""
    batch_rows: int
    """Rows of one forward, of which the last digits of results may depend."""
    tokens: int
    """That a language model writes at most."""
    seed: int
    """Of what it draws."""
    temperature: float
    """At which it draws."""
    device: str
    """That computed them, of which the last digits of results depend."""


class Output:
    """The folder of one task's predictions."""

    def __init__(self, task: PredictTask) -> None:
        """Raises InfrastructureError where it can't be opened."""
        self._task = task
        with explained(task.output):
            self._store = store_at(task.output)

    def begin(self) -> list[int]:
        """Take the folder, or go on in it; returns the numbers of the parts that are there.

        Raises:
            SpecError: it holds something else, or other predictions.
            InfrastructureError: it can't be read or written.
        """
        made_of = _made_of(self._task)
        with explained(self._task.output):
            names = self._store.list("")
            if names and MADE_OF not in names:
                raise SpecError(
                    f"{self._task.output} holds something else ({', '.join(names[:3])}); give a new or an empty folder"
                )
            if not self._store.create(MADE_OF, made_of.model_dump_json(indent=2).encode()):
                self._refuse_other(made_of, self._store.read(f"{MADE_OF}"))
            names = self._store.list("")
        parts = (int(match[1]) for name in names if (match := _PART.fullmatch(name)))
        return sorted(set(parts) & set(self._task.parts))

    def complete(self) -> None:
        """Say that all parts are there. Raises InfrastructureError."""
        with explained(self._task.output):
            self._store.write(COMPLETE, b"")

    def _refuse_other(self, made_of: MadeOf, content: bytes) -> None:
        where, mend = self._task.output, "give another folder, or delete this one"
        try:
            there = MadeOf.model_validate_json(content)
        except ValidationError:
            raise SpecError(
                f"{where}/{MADE_OF} was not written by this version of trainwright; {mend}"
            ) from None
        for name, value in made_of:
            before = getattr(there, name)
            if name != "path" and before != value:
                said = (before, value) if name != "data" else (there.path, "data that holds something else")
                raise SpecError(
                    f"{where} holds predictions of another kind: {name} was {said[0]}, and now it is {said[1]}; {mend}"
                )


def part_name(part: int) -> str:
    """A part's file."""
    return f"part-{part:06d}.parquet"


def _made_of(task: PredictTask) -> MadeOf:
    return MadeOf(
        run=task.run_id,
        step=task.step,
        attempt=task.attempt,
        averaged=task.averaged,
        data=task.index.identity,
        path=task.index.root,
        parts=len(task.parts),
        kept=task.kept,
        batch_rows=task.batch_rows,
        tokens=task.tokens,
        seed=task.seed,
        temperature=task.temperature,
        device=task.device,
    )


@contextmanager
def explained(output: str) -> Iterator[None]:
    """Within it, what the storage of a folder refuses is one sentence. Raises SpecError, InfrastructureError."""
    try:
        yield
    except (NotADirectoryError, FileExistsError):
        raise SpecError(f"{output} can't be a folder: a file is in its place") from None
    except OSError as error:
        raise InfrastructureError(f"{output} can't be written: {first_line(error)}") from None
