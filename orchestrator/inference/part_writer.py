"""A worker's work: the predictions for one group of rows, written as one file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from orchestrator.checkpoint.export import load_modules
from orchestrator.checkpoint.find import checkpoint_at
from orchestrator.data.sources.formats import format_of
from orchestrator.inference.answer_table import beside, column_of_texts, table_of_frame, table_of_numbers
from orchestrator.inference.output import explained, part_name
from orchestrator.inference.task import PredictTask
from orchestrator.models.configs import ModelConfig, ObjectiveSection
from orchestrator.own_code import OwnCode
from orchestrator.spec.preparations import Windows
from orchestrator.storage import store_at
from orchestrator.telemetry.trained import Trained


class PartWriter:
    """A loaded model, and the data that it is to answer."""

    def __init__(self, task: PredictTask) -> None:
        """Raises CheckpointError where the checkpoint is damaged."""
        saved = checkpoint_at(task.checkpoint)
        config: Any = TypeAdapter(ModelConfig).validate_python(saved.meta["model"])
        objective: Any = TypeAdapter(ObjectiveSection).validate_python(saved.meta["objective"])
        self._task = task
        with OwnCode(task.code).importable():
            modules = load_modules(saved, config, objective, averaged=task.averaged)
        self._model = Trained(modules, config, objective, task.inputs, task.device)
        self._format = format_of(task.index.kind)
        self._store = store_at(task.output)

    def write(self, part: int) -> int:
        """Write one part, whole or not at all; returns its rows.

        Raises:
            DataError: a row can't be read; with file and row.
            InfrastructureError: the storage failed.
        """
        table = self._forecasts() if self._task.inputs.series else self._answers(part)
        with explained(self._task.output), self._store.draft(part_name(part)) as file:
            pq.write_table(table, file)
        rows: int = table.num_rows
        return rows

    def _answers(self, group: int) -> pa.Table:
        task = self._task
        columns = tuple(dict.fromkeys((*task.inputs.columns, *task.kept)))
        if task.index.lists_files:
            rows = self._format.read(task.index, group, task.inputs.columns)
            kept = self._format.read(task.index, group, task.kept)
        else:
            rows = self._format.read(task.index, group, columns)
            kept = rows.select(task.kept)
        pieces = [
            self._answered(rows.slice(first, task.batch_rows), group, first)
            for first in range(0, rows.num_rows, task.batch_rows)
        ]
        return beside(kept, pa.concat_tables(pieces))

    def _answered(self, rows: pa.Table, group: int, first: int) -> pa.Table:
        """Answers to some rows of a group, of which ``first`` is the first."""
        task, model = self._task, self._model
        if model.writes:
            number = int(task.index.group_starts[group]) + first
            written = model.continuations(
                model.texts(rows),
                task.tokens,
                task.seed,
                number,
                temperature=task.temperature,
                where=lambda row: task.index.where(group, first + row),
            )
            return pa.table({column_of_texts(model.kind): pa.array(written, pa.string())})
        answers = model.answers(rows, lambda row: task.index.where(group, first + row))
        if isinstance(answers, np.ndarray):
            return table_of_numbers(answers)
        return table_of_frame(answers, model.kind, task.inputs.classes)

    def _forecasts(self) -> pa.Table:
        """What follows each series: of each group of rows that belong together, else of each file that stands apart."""
        tables = []
        for name, past in self._pasts():
            table = pa.Table.from_pandas(self._model.answers(past), preserve_index=False)
            tables.append(
                table if name is None else table.add_column(0, "file", pa.array([name] * len(table)))
            )
        return pa.concat_tables(tables).replace_schema_metadata(None)

    def _pasts(self) -> Iterator[tuple[str | None, pa.Table]]:
        """The last rows of each series, by the file's path where files stand apart; no more than that is kept."""
        index, prepare = self._task.index, self._task.inputs.prepare
        assert isinstance(prepare, Windows)
        apart = prepare.group is None and prepare.files == "apart" and len(index.files) > 1
        lasts: dict[Any, pa.Table] = {}
        for number in range(len(index.group_rows)):
            rows = self._format.read(index, number, self._task.inputs.columns)
            names = rows[prepare.group] if prepare.group is not None else None
            for name in [index.place(number)[0].path] if names is None else names.unique().to_pylist():
                own = rows if names is None else rows.filter(pc.equal(names, name))
                key = name if apart or names is not None else None
                whole = pa.concat_tables([lasts[key], own]) if key in lasts else own
                lasts[key] = whole.slice(max(0, whole.num_rows - prepare.past))
        if prepare.group is not None:
            yield None, pa.concat_tables(lasts.values())
        else:
            yield from lasts.items()
