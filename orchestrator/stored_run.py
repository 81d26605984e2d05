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
from orchestrator.planning.plan import Plan
from orchestrator.records import PLAN, RunRecord
from orchestrator.spec.load import home
from orchestrator.storage import absolute, store_at

if TYPE_CHECKING:
    from orchestrator.checkpoint import Checkpoint
    from orchestrator.inference.evaluate import Evaluation
    from orchestrator.inference.predict import Predicted


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
        try:
            return RunRecord(self._storage()).code(saved.meta["code"])
        except FileNotFoundError:
            raise NotFoundError(f"{self.id} no longer keeps the code of its model") from None

    def plan(self) -> Plan:
        """The plan that it was first launched with.

        Raises:
            InfrastructureError: its storage can't be read from this machine.
            NotFoundError: it keeps none.
        """
        storage = self._storage_here()
        try:
            return Plan.model_validate_json(store_at(storage).read(PLAN)).moved_to(storage)
        except FileNotFoundError:
            raise NotFoundError(
                f"{self.id} keeps no {PLAN}: it was not started, or by an older version"
            ) from None

    def inputs(self) -> bytes:
        """How rows become what its model takes, as JSON: scaling, categories, the tokenizer. See ``data.Inputs``.

        Raises:
            NotFoundError: the run did not come so far as to prepare its data.
        """
        from orchestrator.data import INPUTS

        try:
            return store_at(self._storage()).read(INPUTS)
        except FileNotFoundError:
            raise NotFoundError(f"{self.id} keeps no {INPUTS}: its data was not prepared") from None

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
            on_part: called with the files that are there and the files of all.

        Raises:
            SpecError: the model makes no predictions, or has no averages, or the folder holds something else.
            DataError: the data is not there, lacks a column, or a row can't be read.
            NotFoundError: there is no such checkpoint.
            InfrastructureError: the run's storage can't be read from here, or something failed.
        """
        from orchestrator.data import Inputs
        from orchestrator.inference.predict import predict
        from orchestrator.inference.task import make_task

        plan, saved = self.plan(), self.checkpoint(which)
        task = make_task(
            plan,
            saved,
            Inputs.model_validate_json(self.inputs()),
            self.code(saved),
            _absolute(data),
            absolute(os.fspath(output), str(Path.cwd())),
            cache=str(home() / "cache"),
            keep=None if keep is None else tuple(keep),
            tokens=tokens,
            seed=seed,
            averaged=averaged,
        )
        return predict(plan, task, workers=workers, on_part=on_part)

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
        from orchestrator.data.sources.kinds import source_at
        from orchestrator.inference.evaluate import evaluate, with_metrics

        plan, saved = with_metrics(self.plan(), tuple(metrics)), self.checkpoint(which)
        if plan.job.own_factories:
            own_code.put_first(own_code.folder_of(plan.base_dir, plan.job.environment.working_dir))
        held_out, name = None, "eval"
        if data is not None:
            path, sources = _absolute(data), plan.job.data.train
            held_out = source_at(path, sources[0] if isinstance(sources, tuple) else sources)
            name = _name_of(path)
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
        values = {f"evaluate/{evaluation.data}/{name}": value for name, value in evaluation.metrics.items()}
        return track(storage, evaluation.step, values)


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

        self._root = path.rstrip("/").rpartition("/")[0]
        there = committed(self._root)
        if path.rstrip("/") not in {one.path for one in there}:
            raise NotFoundError(f"{path} is no committed checkpoint of a run")
        self._only = checkpoint_at(path.rstrip("/"))
        self.id = self.plan().run_id

    def _storage(self) -> str:
        return self._root.removesuffix("/checkpoints")

    def checkpoint(self, which: str = "newest") -> Checkpoint:
        """The one that it is of. Raises SpecError where another is asked for."""
        if which != "newest":
            raise SpecError(f"{self._only.path} is a checkpoint: leave --best and --step out")
        return self._only


def _absolute(data: str | os.PathLike[str] | Iterable[str]) -> str:
    """The one absolute path or pattern of data that a person names from where they are."""
    from orchestrator.data.sources.kinds import one_path

    given = [os.fspath(data)] if isinstance(data, str | os.PathLike) else list(data)
    return one_path([absolute(one, str(Path.cwd())) for one in given])


def _name_of(path: str) -> str:
    """What data is called in MLflow: its file or folder, without its ending; of a pattern the folder."""
    parts = [part for part in path.rstrip("/").split("/") if not set(part) & set("*?[")]
    last = parts[-1] if parts else "data"
    return last.rpartition(".")[0] or last
