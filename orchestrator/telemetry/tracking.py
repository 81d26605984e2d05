"""Where a run is looked at: the Tracker protocol, its null object, and MLflow. The only file that imports mlflow.

Nothing here may slow a step or end a run. Points are queued; one thread sends them in batches, because a call
for each metric costs 9-20 ms on the caller where the queue costs a microsecond. With the server away the thread
retries with growing pauses, keeps points in memory up to a bound, and says so once.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from orchestrator.planning.plan import Plan

logger = logging.getLogger(__name__)

_BATCH_SECONDS = 1.0
_LARGEST_BATCH = 1_000
_MOST_PENDING = 200_000
_CLOSE_SECONDS = 30.0
_ADVICE = ("Add type hints to the `predict`", "An input example was not provided")


class Tracker(Protocol):
    """Holds the record of a run. Every method returns at once; none raises."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metric values of a step."""
        ...

    def image(self, step: int, name: str, pixels: Any) -> None:
        """An image (H, W) or (H, W, 3), uint8, of a step."""
        ...

    def text(self, step: int, name: str, text: str) -> None:
        """Generated text of a step."""
        ...

    def finish(self, status: str | None, model_dir: Path | None = None) -> None:
        """Send what is queued, log the model in ``model_dir``, close the run as FINISHED, FAILED or KILLED.

        With status None the run stays open: another attempt goes on with it.
        """
        ...


class NullTracker:
    """Tracks nothing."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def image(self, step: int, name: str, pixels: Any) -> None:
        """Nothing."""

    def text(self, step: int, name: str, text: str) -> None:
        """Nothing."""

    def finish(self, status: str | None, model_dir: Path | None = None) -> None:
        """Nothing."""


def open_tracker(plan: Plan, *, dataset: Mapping[str, Any], on_url: Callable[[str], None]) -> Tracker:
    """The job's tracker. ``on_url`` is called once, from the tracker's thread, when the run's address is known."""
    return MlflowTracker(plan, dataset=dataset, on_url=on_url) if plan.tracking_uri else NullTracker()


def flat_params(plan: Plan) -> dict[str, str]:
    """The plan's decisions as MLflow parameters: dotted names, text values."""
    found: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif value is not None and value != "" and value != []:
            found[_allowed(prefix)] = str(value)[:500]

    job = plan.job.model_dump(mode="json", exclude={"name", "description", "tracking", "environment"})
    walk("", job)
    walk("plan", {"world_size": plan.world_size, "micro_batch_size": plan.micro_batch_size})
    walk("plan", {"accumulation_steps": plan.accumulation_steps, "total_steps": plan.total_steps})
    walk("plan", {"parameters": plan.parameters, "flops_per_sample": plan.flops_per_sample})
    return found


def run_url(tracking_uri: str, experiment_id: str, mlflow_run_id: str) -> str:
    """Where to look at a run. Without the workflow type, MLflow 3.17 opens on its GenAI pages."""
    if not tracking_uri.startswith("http"):
        return ""
    return f"{tracking_uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{mlflow_run_id}?workflowType=machine_learning"


def _allowed(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)


class MlflowTracker:
    """One MLflow run, found again by its tag on restart and resume; points already there are not sent twice."""

    def __init__(self, plan: Plan, *, dataset: Mapping[str, Any], on_url: Callable[[str], None]) -> None:
        self._plan = plan
        self._dataset = dataset
        self._on_url = on_url
        self._queue: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._client: Any = None
        self._mlflow_run_id = ""
        self._last_logged_step = -1
        self._lost = 0
        self._give_up_at = float("inf")
        self._thread = threading.Thread(target=self._work, name="mlflow-tracker", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metric values of a step."""
        if self._queue.qsize() < _MOST_PENDING:
            self._queue.put(("metrics", (step, int(time.time() * 1000), dict(metrics))))
        else:
            self._lost += len(metrics)

    def image(self, step: int, name: str, pixels: Any) -> None:
        """An image of a step."""
        self._queue.put(
            ("call", lambda client, run: client.log_image(run, pixels, key=_allowed(name), step=step))
        )

    def text(self, step: int, name: str, text: str) -> None:
        """Generated text of a step."""
        path = f"samples/{_allowed(name)}-{step:08d}.txt"
        self._queue.put(("call", lambda client, run: client.log_text(run, text, path)))

    def finish(self, status: str | None, model_dir: Path | None = None) -> None:
        """Send what is queued, log the model, close the run. Waits at most half a minute for an absent server."""
        self._give_up_at = time.monotonic() + _CLOSE_SECONDS
        if model_dir is not None:
            self._queue.put(("call", lambda client, run: _log_model(self._plan, client, run, model_dir)))
        self._queue.put(("end", status))
        self._thread.join(timeout=10 * _CLOSE_SECONDS)
        if self._lost:
            logger.warning(
                "MLflow at %s did not take %d metric values; they are in the run's log (trainwright logs %s)",
                self._plan.tracking_uri,
                self._lost,
                self._plan.run_id,
            )

    # -- the thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        first = self._queue.get()  # mlflow takes seconds to import: not before the first step has been taken
        pending: list[tuple[str, Any]] = [first]
        while True:
            deadline = time.monotonic() + _BATCH_SECONDS
            while pending[-1][0] != "end" and len(pending) < _LARGEST_BATCH:
                try:
                    pending.append(self._queue.get(timeout=max(0.0, deadline - time.monotonic())))
                except queue.Empty:
                    break
            if not self._retrying(self._connect):
                self._lost += sum(len(item[1][2]) for item in pending if item[0] == "metrics")
                return
            self._send(pending)
            if pending[-1][0] == "end":
                if status := pending[-1][1]:
                    self._retrying(lambda: self._client.set_terminated(self._mlflow_run_id, status=status))
                return
            pending = [self._queue.get()]

    def _send(self, items: list[tuple[str, Any]]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(_allowed(name), value, timestamp, step)
            for kind, content in items
            if kind == "metrics"
            for step, timestamp, metrics in [content]
            if step > self._last_logged_step
            for name, value in metrics.items()
        ]
        for start in range(0, len(points), _LARGEST_BATCH):
            batch = points[start : start + _LARGEST_BATCH]
            if not self._retrying(partial(self._client.log_batch, self._mlflow_run_id, metrics=batch)):
                self._lost += len(batch)
        for kind, content in items:
            if kind == "call":
                self._retrying(partial(content, self._client, self._mlflow_run_id), attempts=2)

    def _retrying(self, call: Callable[[], Any], attempts: int = 1_000_000) -> bool:
        pause, warned = 0.5, False
        for attempt in range(1, attempts + 1):
            try:
                call()
                return True
            except Exception as error:
                if not warned:
                    warned = True
                    first_line = (
                        str(error).strip().splitlines()[0][:300]
                        if str(error).strip()
                        else type(error).__name__
                    )
                    logger.warning("MLflow at %s: %s; training goes on", self._plan.tracking_uri, first_line)
                if attempt == attempts or time.monotonic() + pause > self._give_up_at:
                    return False
                time.sleep(pause)
                pause = min(2 * pause, 10.0)
        return False

    def _connect(self) -> None:
        if self._mlflow_run_id:
            return
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        for name in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.entities import Metric  # noqa: F401 - imported here, so that an absent package is one warning

        plan = self._plan
        client = MlflowClient(tracking_uri=plan.tracking_uri)
        experiment = client.get_experiment_by_name(plan.job.tracking.experiment)
        experiment_id = (
            experiment.experiment_id
            if experiment
            else client.create_experiment(
                plan.job.tracking.experiment,
                artifact_location=_artifacts_beside(plan.tracking_uri),
                tags={"mlflow.experimentKind": "custom_model_development"},
            )
        )
        found = client.search_runs(
            [experiment_id], f"tags.`trainwright.run_id` = '{plan.run_id}'", max_results=1
        )
        if found:
            run_id = found[0].info.run_id
            client.update_run(run_id, status="RUNNING")
            history = client.get_metric_history(run_id, "train/learning_rate")
            self._last_logged_step = max((point.step for point in history), default=-1)
        else:
            run_id = client.create_run(experiment_id, tags=_tags(plan), run_name=plan.run_id).info.run_id
            _describe(client, run_id, plan, self._dataset)
        self._client, self._mlflow_run_id = client, run_id
        self._on_url(run_url(plan.tracking_uri, experiment_id, run_id))


def _artifacts_beside(tracking_uri: str) -> str | None:
    """An SQLite store's artifacts go beside its file (MLflow would put them into the current folder)."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    return (Path(tracking_uri.removeprefix("sqlite:///")).parent / "mlartifacts").as_uri()


def _tags(plan: Plan) -> dict[str, str]:
    job = plan.job
    tags = {
        "trainwright.run_id": plan.run_id,
        "trainwright.plan_digest": plan.digest,
        "trainwright.version": plan.version,
        "trainwright.family": job.model.family,
        "trainwright.strategy": job.strategy.kind,
        "mlflow.source.name": f"{job.name} (trainwright job)",
        "mlflow.source.type": "JOB",
        **job.tracking.tags,
    }
    if job.description:
        tags["mlflow.note.content"] = job.description
    if plan.git_commit:
        tags["mlflow.source.git.commit"] = plan.git_commit
    return tags


def _describe(client: Any, run_id: str, plan: Plan, dataset: Mapping[str, Any]) -> None:
    from importlib.metadata import distributions

    import yaml
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    params = [Param(name, value) for name, value in flat_params(plan).items()]
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])
    client.log_text(run_id, yaml.safe_dump(plan.job.model_dump(mode="json"), sort_keys=False), "job.yaml")
    client.log_text(run_id, plan.model_dump_json(indent=2), "plan.json")
    packages = sorted(f"{d.metadata['Name']}=={d.version}" for d in distributions() if d.metadata["Name"])
    client.log_text(run_id, "\n".join(dict.fromkeys(packages)) + "\n", "environment.txt")
    for context in ("train", "eval"):
        if record := dataset.get(context):
            client.log_inputs(
                run_id,
                [DatasetInput(Dataset(**record), [InputTag("mlflow.data.context", context)])],
            )


def _log_model(plan: Plan, client: Any, run_id: str, model_dir: Path) -> None:
    """Log ``model_dir`` (weights as safetensors, config as JSON) as a model that builds itself from them: no pickle."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec

    signature = None
    if plan.job.objective.kind == "causal_lm":  # MLflow drops params that no signature names
        params = [ParamSpec("tokens", "long", 128), ParamSpec("seed", "long", 0)]
        signature = ModelSignature(params=ParamSchema(params))
    mlflow.set_tracking_uri(plan.tracking_uri)
    with _without_advice(), mlflow.start_run(run_id=run_id, log_system_metrics=False):
        mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).parent / "logged_model.py"),
            artifacts={"model": str(model_dir)},
            signature=signature,
            pip_requirements=[f"trainwright=={plan.version}"],
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Without what MLflow advises whoever writes a model by hand. Its filters go before ours, so the advice is dropped
    where it would be shown.
    """
    show = warnings.showwarning

    def show_others(message: Warning | str, *place: Any, **more: Any) -> None:
        if not any(advice in str(message) for advice in _ADVICE):
            show(message, *place, **more)

    warnings.showwarning = show_others
    try:
        yield
    finally:
        warnings.showwarning = show
