"""What a run's storage, read from this machine, is good for: predictions, metrics on other data, the model's own files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import own_code
from orchestrator.errors import NotFoundError, SpecError
from orchestrator.own_code import OwnCode
from orchestrator.spec.load import home
from orchestrator.storage import absolute

if TYPE_CHECKING:
    from orchestrator.checkpoint import Checkpoint
    from orchestrator.inference.results import Evaluation, Predicted
    from orchestrator.planning.plan import Plan


class StoredRun(ABC):
    """A run, wherever its files lie."""

    id: str

    @abstractmethod
    def _storage(self) -> str:
        """Root of its files; empty where it has none yet."""

    def _storage_here(self) -> str:
        """The same, which this machine reads. Raises InfrastructureError."""
        return self._storage()

    def _checkpoints(self) -> str:
        return f"{self._storage()}/checkpoints"

    def checkpoint(self, which: str = "newest") -> Checkpoint:
        """Its ``newest`` good checkpoint, its ``best``, or that of a step: see ``checkpoint.chosen``."""
        from orchestrator import checkpoint

        return checkpoint.chosen(self._checkpoints(), which)

    def code(self, saved: Checkpoint) -> OwnCode:
        """The person's own files that a checkpoint of it was trained with; none where the model is a family of ours.

        Raises:
            NotFoundError: they are gone from its storage.
        """
        from orchestrator.inference import kept

        return kept.code_of(self._storage(), self.id, saved)

    def plan(self) -> Plan:
        """The plan that it was first launched with.

        Raises:
            InfrastructureError: its storage can't be read from this machine.
            NotFoundError: it keeps none.
        """
        from orchestrator.inference import kept

        return kept.plan_of(self._storage_here(), self.id)

    def inputs(self) -> bytes:
        """How rows become what its model takes, as JSON: scaling, categories, the tokenizer. See ``data.Inputs``.

        Raises:
            NotFoundError: the run did not come so far as to prepare its data.
        """
        from orchestrator.inference import kept

        return kept.inputs_of(self._storage(), self.id)

    def predict(
        self,
        data: str | os.PathLike[str] | Iterable[str],
        output: str | os.PathLike[str],
        *,
        which: str = "newest",
        averaged: bool = False,
        workers: int = 1,
        keep: Iterable[str] | None = None,
        tokens: int | None = None,
        seed: int | None = None,
        temperature: float | None = None,
        on_part: Callable[[int, int], None] | None = None,
    ) -> Predicted:
        """Write what its model says of each row of some files, as Parquet, on this machine. Each row is answered once; where
        it was killed it goes on with what is not there yet.

        Args:
            data: a file, a folder or a pattern, as the training data was; or the files of a pattern.
            output: a new or empty folder, or one of the same predictions.
            which: the checkpoint, as in ``checkpoint``.
            averaged: by the moving averages of its weights instead of them.
            workers: processes that hold the model. Their number changes no file.
            keep: columns of the data beside the predictions. Default: all that hold one number, text, date or the like.
            tokens: that a language model writes at most. Default: 128.
            seed: of what it draws. Default: 0.
            temperature: at which it draws; 0: the likeliest token each time. Default: 1.
            on_part: called with the files that are there and the files of all.

        Raises:
            SpecError: the model makes no predictions, or has no averages, or the folder holds something else.
            DataError: the data is not there, lacks a column, or a row can't be read.
            NotFoundError: there is no such checkpoint.
            InfrastructureError: the run's storage can't be read from here, or something failed.
        """
        from functools import partial

        from orchestrator.data import Inputs
        from orchestrator.inference.pool import written
        from orchestrator.inference.predict import predict
        from orchestrator.inference.task import make_task

        plan, saved = self.plan(), self.checkpoint(which)
        task = make_task(
            plan,
            saved,
            Inputs.model_validate_json(self.inputs()),
            self.code(saved),
            named_from_here(data),
            absolute(os.fspath(output), str(Path.cwd())),
            cache=str(home() / "cache"),
            keep=None if keep is None else tuple(keep),
            tokens=tokens,
            seed=seed,
            temperature=temperature,
            averaged=averaged,
        )
        return predict(task, partial(written, plan, task, workers), on_part=on_part)

    def evaluate(
        self,
        data: str | os.PathLike[str] | Iterable[str] | None = None,
        *,
        which: str = "newest",
        averaged: bool = False,
        metrics: Iterable[str] = (),
        workers: int = 1,
    ) -> Evaluation:
        """Measure one of its checkpoints by the metrics that its training evaluates by, on this machine; nothing is tracked,
        see ``track``.

        Args:
            data: as for ``predict``, with labels. Default: what the run itself evaluates on.
            which: the checkpoint, as in ``checkpoint``.
            averaged: with the moving averages of its weights instead of them; the metrics are then called ``ema/...``.
            metrics: more than its training measures: see ``objective.metrics``.
            workers: processes that share the samples.

        Raises:
            SpecError: it has no averages, or its objective no such metric.
            DataError: the data is not there or is not like the training data, or that has changed or can't be read.
            NotFoundError: there is no such checkpoint.
            InfrastructureError: the run's storage can't be read from here, or something failed.
        """
        from orchestrator.inference.evaluate import evaluate, held_out_at, with_metrics

        plan, saved = with_metrics(self.plan(), tuple(metrics)), self.checkpoint(which)
        if plan.job.own_factories:
            own_code.put_first(own_code.folder_of(plan.base_dir, plan.job.environment.working_dir))
        held_out, name = held_out_at(plan, None if data is None else named_from_here(data))
        with self.code(saved).importable():
            return evaluate(plan, saved, held_out, name=name, averaged=averaged, workers=workers)

    def track(self, evaluation: Evaluation) -> int | None:
        """Send what was measured to its record in MLflow, as ``evaluate/<data>/<metric>`` at the checkpoint's step. What was
        sent under this name before stays.

        Returns:
            How many values were new; None while the run sends by itself, as these too.

        Raises:
            NotFoundError: the run is not tracked.
            InfrastructureError: MLflow did not take all; the values are kept.
        """
        from orchestrator.telemetry.evaluations import is_tracked, track

        storage = self._storage_here()
        if not is_tracked(storage):
            raise NotFoundError(f"{self.id} is not tracked")
        return track(storage, evaluation.step, evaluation.tracked)


class CheckpointRun(StoredRun):
    """The run of one checkpoint, which is the only one that is taken of it."""

    def __init__(self, path: str) -> None:
        """
        Args:
            path: absolute, of a checkpoint's folder in a run's storage.

        Raises:
            NotFoundError: there is none.
        """
        from orchestrator.checkpoint import checkpoint_at, committed
        from orchestrator.inference import kept

        self._root = path.rstrip("/").rpartition("/")[0]
        there = committed(self._root)
        if path.rstrip("/") not in {one.path for one in there}:
            raise NotFoundError(f"{path} is no committed checkpoint of a run")
        self._only = checkpoint_at(path.rstrip("/"))
        self.id = kept.plan_of(self._storage(), path).run_id

    def _storage(self) -> str:
        return self._root.removesuffix("/checkpoints")

    def checkpoint(self, which: str = "newest") -> Checkpoint:
        """The one that it is of. Raises SpecError where another is asked for."""
        if which != "newest":
            raise SpecError(f"{self._only.path} is a checkpoint: leave --best and --step out")
        return self._only


def named_from_here(data: str | os.PathLike[str] | Iterable[str]) -> str:
    """The one absolute path or pattern of data that a person names from where they are."""
    from orchestrator.data.sources.kinds import one_path

    given = [os.fspath(data)] if isinstance(data, str | os.PathLike) else list(data)
    return one_path([absolute(one, str(Path.cwd())) for one in given])
