"""The models of a run in MLflow: a record of each kept checkpoint, and one that holds weights and answers.

A checkpoint's record holds no weights, which stay in the run's storage; it shows step, metrics, data sets and where the
checkpoint lies. It goes when retention removes the checkpoint, so that the table of models is what there is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from orchestrator.checkpoint import Checkpoint
from orchestrator.planning.plan import Plan
from orchestrator.telemetry.model_folder import ModelFolder, write_own_code
from orchestrator.telemetry.model_signature import example_of, signature_of
from orchestrator.telemetry.spool import Part, Spool

_VERSIONS_TAG = "mlflow.modelVersions"
"""By which the page of a model names where it is registered."""
_KIND_TAG = "trainwright.model"
_RECORD, _WHOLE = "checkpoint", "weights"
_NEEDED = ("mlflow", "torch", "numpy", "pandas", "pyarrow", "pydantic", "safetensors", "pillow", "tokenizers")
"""What a logged model imports, beside the code that travels with it."""


class MlflowModels:
    """One run's."""

    def __init__(self, client: Any, plan: Plan, spool: Spool, *, run_id: str, experiment_id: str) -> None:
        """
        Args:
            client: MLflow's.
            plan: of the run.
            spool: where the times of its points are.
            run_id: in MLflow.
            experiment_id: in MLflow.
        """
        self._client, self._plan, self._run_id, self._experiment_id = client, plan, run_id, experiment_id
        self._times = _PointTimes(spool)
        self._data: dict[str, Any] = (spool.note("run.json") or {}).get("data", {})

    def keep_up(self, kept: Iterable[Checkpoint]) -> None:
        """Give each kept checkpoint a record, and take those of others away. Doing it again changes nothing."""
        by_step = {saved.step: saved for saved in reversed(list(kept))}
        self._times.read(by_step)
        there = self._there()
        for step, (model_id, kind) in there.items():
            if kind == _RECORD and step not in by_step:
                self._client.delete_logged_model(model_id)
        for step, saved in by_step.items():
            if step not in there:
                self._record(saved)

    def log(self, folder: ModelFolder, kept: Iterable[Checkpoint]) -> None:
        """Log a model with its weights, in the place of its checkpoint's record, and register it where the job says so.

        Args:
            folder: the model.
            kept: all checkpoints that have or will get a record.

        """
        self._times.read({saved.step for saved in kept} | {folder.saved.step})
        step = folder.saved.step
        if step in (there := self._there()):
            self._client.delete_logged_model(there[step][0])
        model_id = self._create(folder.saved, _WHOLE, which=folder.described)
        self._fill(model_id, folder)
        if self._plan.job.tracking.register is not None:
            self._register(model_id)

    def _there(self) -> dict[int, tuple[str, str]]:
        """Id and kind of the run's models by step."""
        found = self._client.search_logged_models(
            [self._experiment_id], filter_string=f"source_run_id = '{self._run_id}'", max_results=1000
        )
        return {
            int(model.tags["step"]): (model.model_id, model.tags[_KIND_TAG])
            for model in found
            if _KIND_TAG in model.tags
        }

    def _record(self, saved: Checkpoint) -> None:
        self._client.finalize_logged_model(self._create(saved, _RECORD), "READY")

    def _create(self, saved: Checkpoint, kind: str, **tags: str) -> str:
        from mlflow.entities import LoggedModelOutput

        model = self._client.create_logged_model(
            self._experiment_id,
            name=self._plan.job.name,
            source_run_id=self._run_id,
            tags={**self._tags(saved, kind), **tags},
            params=self._params(saved),
            model_type=self._plan.job.model.family,
        )
        self._client.log_outputs(self._run_id, [LoggedModelOutput(model.model_id, saved.step)])
        self._add_metrics(model.model_id, saved)
        return str(model.model_id)

    def _fill(self, model_id: str, folder: ModelFolder) -> None:
        """Give a model its files. In no run of MLflow's own: that would ask for each metric's whole history."""
        import mlflow

        mlflow.set_tracking_uri(self._plan.tracking_uri)
        with tempfile.TemporaryDirectory() as place, _without_advice():
            mlflow.pyfunc.log_model(
                name=self._plan.job.name,
                model_id=model_id,
                python_model=str(Path(__file__).parent / "logged_model.py"),
                artifacts={"model": str(folder.path)},
                # no index has this project, so its code travels with the model
                code_paths=[str(write_own_code(Path(place)))],
                pip_requirements=list(_requirements()),
                signature=signature_of(self._plan.job, folder.inputs, folder.example),
                input_example=example_of(folder.inputs, folder.example),
            )

    def _tags(self, saved: Checkpoint, kind: str) -> dict[str, str]:
        of_checkpoint = {_KIND_TAG: kind, "step": str(saved.step), "checkpoint": saved.path}
        return {**of_checkpoint, **source_tags(self._plan)}

    def _params(self, saved: Checkpoint) -> dict[str, str]:
        job = self._plan.job
        return {
            "step": str(saved.step),
            "family": job.model.family,
            "objective": job.objective.kind,
            "parameters": str(self._plan.parameters),
        }

    def _add_metrics(self, model_id: str, saved: Checkpoint) -> None:
        """The metrics of the checkpoint's step, each a point of the run's too: the same value at the same time, so that
        the run has it once.
        """
        from mlflow.entities import Metric

        from orchestrator.telemetry.mlflow_run import allowed

        metrics = []
        for name, (value, time) in self._times.points(saved.step).items():
            if name not in saved.meta["metrics"]:
                continue
            of_data = self._data.get("train" if name.startswith("train/") else "eval", {})
            metrics.append(
                Metric(
                    allowed(name),
                    value,
                    time,
                    saved.step,
                    model_id=model_id,
                    dataset_name=of_data.get("name"),
                    dataset_digest=of_data.get("digest"),
                    run_id=self._run_id,
                )
            )
        if metrics:
            self._client.log_batch(self._run_id, metrics=metrics)

    def _register(self, model_id: str) -> None:
        from mlflow.exceptions import MlflowException

        section = self._plan.job.tracking.register
        assert section is not None
        try:
            self._client.create_registered_model(section.name, description=self._plan.job.description or None)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        made = self._client.create_model_version(
            section.name, f"models:/{model_id}", run_id=self._run_id, model_id=model_id
        )
        versions = json.dumps([{"name": section.name, "version": made.version}])
        self._client.set_logged_model_tags(model_id, {_VERSIONS_TAG: versions})
        if section.alias is not None:
            self._client.set_registered_model_alias(section.name, section.alias, made.version)


class _PointTimes:
    """When the points of kept checkpoints' steps were logged, read from the spool once. Others are let go, so that memory
    does not grow with the run.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._ends: dict[Part, int] = {}
        self._points: dict[int, dict[str, tuple[float, int]]] = {}

    def read(self, kept: Collection[int]) -> None:
        """Read what is new. Behind the newest of the kept steps all stays: a checkpoint may be under way there."""
        newest = max(kept, default=-1)
        for part in self._spool.parts():
            for record in self._spool.records(part, self._ends.get(part, 0)):
                self._ends[part] = record.end
                step = record.content["step"]
                if step in kept or step > newest:
                    self._add(step, record.content)
        for step in [step for step in self._points if step not in kept and step <= newest]:
            del self._points[step]

    def points(self, step: int) -> Mapping[str, tuple[float, int]]:
        """Value and milliseconds since the epoch of each point of a kept step, as they were read last."""
        return self._points.get(step, {})

    def _add(self, step: int, content: Mapping[str, Any]) -> None:
        named = {
            name: (value, content["time"])
            for name, value in content.get("values", {}).items()
            if not name.startswith("system/")
        }
        if named:
            self._points.setdefault(step, {}).update(named)


def source_tags(plan: Plan) -> dict[str, str]:
    """Who made a run and its models, and from what: MLflow alone would name the script of Ray's that runs a worker."""
    return {
        "mlflow.user": plan.user,
        "mlflow.source.name": f"{plan.job.name} (trainwright job)",
        "mlflow.source.type": "JOB",
    }


def _requirements() -> Iterator[str]:
    for name in _NEEDED:
        with contextlib.suppress(PackageNotFoundError):
            yield f"{name}=={version(name).partition('+')[0]}"


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Without what MLflow tells whoever writes a model by hand, as warnings and in its log. Its filters go before ours,
    so a warning is dropped where it would be shown.
    """
    show, log = warnings.showwarning, logging.getLogger("mlflow")
    level = log.level

    def show_others(
        message: Warning | str, category: type[Warning], file: str, *more: Any, **named: Any
    ) -> None:
        if "mlflow" not in file:
            show(message, category, file, *more, **named)

    warnings.showwarning = show_others  # type: ignore[assignment]
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        warnings.showwarning = show
        log.setLevel(level)
