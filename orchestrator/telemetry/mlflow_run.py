"""A run's record in MLflow: found again or made, described, added to, closed. With ``mlflow_models`` and ``logged_model``, all
of mlflow.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from orchestrator.ledger import Ledger
from orchestrator.planning.plan import Plan
from orchestrator.private import files_for_this_user_alone
from orchestrator.spec.addresses import with_password
from orchestrator.telemetry import mlflow_view
from orchestrator.telemetry.ledger_view import files_of_ledger, ledger_metrics
from orchestrator.telemetry.mlflow_errors import TrackedRunGoneError
from orchestrator.telemetry.mlflow_models import MlflowModels, source_tags
from orchestrator.telemetry.report import REPORT, newest_values, report_page
from orchestrator.telemetry.sending import LARGEST_BATCH, Point
from orchestrator.telemetry.spool import FOUND, HANG, Spool

CLOSED = "closed.json"
"""The note of which end MLflow has been told."""
_SENT_TAG = "mlflow.trainwright.sent"
"""How far each part of the spool was sent. The prefix hides it from MLflow's pages."""
RUN_TAG = "trainwright.run_id"
"""By which a run is found there."""
_HANG_TAG = "trainwright.hang"
"""Which worker the last attempt that hung waited for."""
_NEWEST = "\n\nNewest: "
"""What parts a description from the metrics below it."""
_ARTIFACTS = "mlartifacts"
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
)
"""Where an SQLite store keeps whole paths of files."""
REQUEST_SECONDS = 30
"""How long an answer is waited for by whoever sends."""


class MlflowRun:
    """One run of ours in MLflow: a ``sending.Destination``."""

    def __init__(self, client: Any, run: Any, plan: Plan, spool: Spool) -> None:
        """``open`` makes them."""
        self._client, self._plan, self._spool = client, plan, spool
        self.id: str = run.info.run_id
        self._experiment_id: str = run.info.experiment_id
        self._is_running = run.info.status == "RUNNING"
        self._tags: dict[str, str] = dict(run.data.tags)

    @classmethod
    def open(cls, plan: Plan, spool: Spool, *, anew: bool = False) -> MlflowRun:
        """Find the run's record, or make it.

        Args:
            plan: of the run.
            spool: its spool.
            anew: make another one where it was deleted.

        Raises:
            TrackedRunGoneError: it, or its experiment, was deleted in MLflow.
            Exception: as MLflow raises it; see ``mlflow_errors``.

        """
        client = connect(plan.tracking_uri)
        experiment_id = _experiment(client, plan)
        note = spool.note(FOUND)
        if note is not None and note["uri"] == plan.tracking_uri:
            run = _alive(client, note["run_id"])
            if run is not None:
                return cls(client, run, plan, spool)
            if not anew:
                raise TrackedRunGoneError(
                    f"the run was deleted there; trainwright sync {plan.run_id} puts it there again, with all its values"
                )
        run = _tagged(client, experiment_id, plan) or _created(client, experiment_id, plan, spool)
        _describe(client, run.info.run_id, plan, spool)
        spool.set_note(FOUND, {"uri": plan.tracking_uri, "run_id": run.info.run_id})
        return cls(client, run, plan, spool)

    @property
    def url(self) -> str:
        """Where to look at it; empty where nothing serves it."""
        return run_url(self._plan.tracking_uri, self._experiment_id, self.id)

    # -- Destination -------------------------------------------------------------------------------------------

    def sent(self) -> dict[str, int]:
        """See Destination."""
        found: dict[str, int] = json.loads(self._tags.get(_SENT_TAG, "{}"))
        return found

    def there(self, points: list[Point]) -> set[tuple[str, int]]:
        """See Destination. A history is asked for only where the newest value's step does not say it already."""
        newest = {metric.key: metric.step for metric in self._alive().data._metric_objs}
        found: set[tuple[str, int]] = set()
        for name in {point.name for point in points}:
            steps = {point.step for point in points if point.name == name}
            if newest.get(allowed(name), -1) >= min(steps):
                history = self._client.get_metric_history(self.id, allowed(name))
                found |= {(name, point.step) for point in history if point.step in steps}
        return found

    def send(self, points: list[Point], sent: Mapping[str, int]) -> None:
        """See Destination."""
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(allowed(point.name), point.value, point.time, point.step) for point in points]
        tags = [RunTag(_SENT_TAG, json.dumps(sent, separators=(",", ":")))]
        try:
            for start in range(0, max(1, len(metrics)), LARGEST_BATCH):
                is_last = start + LARGEST_BATCH >= len(metrics)
                batch = metrics[start : start + LARGEST_BATCH]
                self._client.log_batch(self.id, metrics=batch, tags=tags if is_last else ())
        except Exception:
            self._alive()  # where it was deleted that is the reason
            raise

    def send_file(self, name: str, content: bytes) -> None:
        """See Destination."""
        import tempfile

        folder, _, file = name.rpartition("/")
        with tempfile.TemporaryDirectory() as place:
            path = Path(place, file)
            path.write_bytes(content)
            self._client.log_artifact(self.id, str(path), folder or None)

    # -- its end -----------------------------------------------------------------------------------------------

    def reopen(self) -> None:
        """An attempt goes on with it."""
        self._spool.set_note(CLOSED, {})
        if not self._is_running:
            self._client.update_run(self.id, status="RUNNING")
            self._is_running = True
        self._tag_hang()

    def _tag_hang(self) -> None:
        if hang := self._spool.note(HANG):
            self._client.set_tag(self.id, _HANG_TAG, hang["message"])

    @cached_property
    def models(self) -> MlflowModels:
        """Its models."""
        return MlflowModels(
            self._client, self._plan, self._spool, run_id=self.id, experiment_id=self._experiment_id
        )

    def close(self, launch: int, status: str, ended_at: float | None, ledger: Ledger | None) -> None:
        """Add the report and the ledger, put the newest metrics into the description, set its end, and note that it has been told.

        Args:
            launch: whose end it is.
            status: FINISHED, FAILED or KILLED.
            ended_at: seconds since the epoch; None: now.
            ledger: where its time went up to here; None where nobody knows.

        """
        self.send_file(REPORT, report_page(self._plan, self._spool, status, ledger))
        if ledger is not None:
            self._send_ledger(ledger, int(1000 * (ended_at or time.time())))
        self._describe_end()
        self._tag_hang()
        end_time = int(ended_at * 1000) if ended_at else None
        self._client.set_terminated(self.id, status=status, end_time=end_time)
        self._is_running = False
        self._spool.set_note(CLOSED, {"launch": launch, "status": status})

    def _send_ledger(self, ledger: Ledger, moment: int) -> None:
        """As a file, as a picture, and as metrics whose step is the seconds that it has, so that each is there once."""
        from mlflow.entities import Metric

        for name, content in files_of_ledger(ledger):
            self.send_file(name, content)
        values = ledger_metrics(ledger)
        points = [Point(name, value, moment, int(ledger.wall)) for name, value in values.items()]
        there = self.there(points)
        fresh = [Metric(*point) for point in points if (point.name, point.step) not in there]
        self._client.log_batch(self.id, metrics=fresh)

    def _describe_end(self) -> None:
        """What a run came to stands in its description, since MLflow lists a run's metrics with those of the system first.
        A description that somebody changed there stays.
        """
        ours = self._plan.job.description
        there = self._alive().data.tags.get(mlflow_view.NOTE_TAG, "")
        values = newest_values(self._spool)
        if values and there.partition(_NEWEST)[0] == ours:
            shown = " · ".join(f"{name} **{value}**" for name, value in values.items())
            self._client.set_tag(self.id, mlflow_view.NOTE_TAG, f"{ours}{_NEWEST}{shown}")

    def _alive(self) -> Any:
        run = _alive(self._client, self.id)
        if run is None:
            raise TrackedRunGoneError(
                f"the run was deleted there; trainwright sync {self._plan.run_id} puts it there again, with all its"
                " values"
            )
        return run


def connect(tracking_uri: str) -> Any:
    """MLflow's client, for a store that is ready to be used.

    Of several processes that come to an SQLite file first, one makes its tables and the others wait: MLflow itself
    lets them all begin, and all but one fail.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    with store_lock(tracking_uri):
        client = MlflowClient(tracking_uri=_authenticated(tracking_uri))
        if tracking_uri.startswith("sqlite:"):
            client.search_experiments(max_results=1)
            _follow_move(Path(tracking_uri.removeprefix("sqlite:///")))
    return client


def _follow_move(database: Path) -> None:
    """Let files be looked for beside the database, where it was moved together with them: MLflow keeps whole paths, and
    would go on writing at the old place.
    """
    import sqlite3

    here = (database.parent / _ARTIFACTS).as_uri()
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as store, store:
        known = store.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (old,) in known:
            is_ours = old and old.startswith("file:///") and old.endswith(f"/{_ARTIFACTS}") and old != here
            if (
                not is_ours
                or Path(unquote(urlsplit(old).path)).exists()
                or not Path(database.parent, _ARTIFACTS).is_dir()
            ):
                continue
            for table, column in _PLACES:
                store.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {column} LIKE ?",
                    (here, len(old) + 1, old, f"{old}/%"),
                )


@contextlib.contextmanager
def store_lock(tracking_uri: str) -> Iterator[None]:
    """Alone among the processes of this machine that open an SQLite store for the first time."""
    if not tracking_uri.startswith("sqlite:///"):
        yield
        return
    import fcntl

    path = Path(tracking_uri.removeprefix("sqlite:///"))
    with files_for_this_user_alone():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _authenticated(tracking_uri: str) -> str:
    """The address as MLflow is given it. Of a server, name and password go beside it: messages quote addresses."""
    whole = with_password(tracking_uri)
    parts = urlsplit(whole)
    if not parts.scheme.startswith("http") or "@" not in parts.netloc:
        return whole
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    os.environ.setdefault("MLFLOW_TRACKING_USERNAME", unquote(user))
    os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", unquote(password))
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def run_url(tracking_uri: str, experiment_id: str, mlflow_run_id: str) -> str:
    """Where to look at a run. Without the workflow type, MLflow 3.17 opens on its GenAI pages."""
    if not tracking_uri.startswith("http"):
        return ""
    page = f"{tracking_uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{mlflow_run_id}?workflowType=machine_learning"
    workspace = os.environ.get("MLFLOW_WORKSPACE")
    return f"{page}&workspace={quote(workspace)}" if workspace else page


def flat_params(plan: Plan) -> dict[str, str]:
    """The plan's decisions as MLflow parameters: dotted names, text values."""
    found: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif value is not None and value != "" and value != []:
            found[allowed(prefix)] = str(value)[:500]

    job = plan.job.model_dump(mode="json", exclude={"name", "description", "tracking", "environment"})
    walk("", job)
    walk("plan", {"world_size": plan.world_size, "micro_batch_size": plan.micro_batch_size})
    walk("plan", {"accumulation_steps": plan.accumulation_steps, "total_steps": plan.total_steps})
    walk("plan", {"parameters": plan.parameters, "flops_per_sample": plan.flops_per_sample})
    return found


def allowed(name: str) -> str:
    """A name as MLflow takes it."""
    return re.sub(r"[^A-Za-z0-9_\-. :/]", "_", name)[:250]


# -- finding and making ----------------------------------------------------------------------------------------


def _experiment(client: Any, plan: Plan) -> str:
    from mlflow.exceptions import MlflowException

    name = plan.job.tracking.experiment
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            made = client.create_experiment(
                name,
                artifact_location=_artifacts_beside(plan.tracking_uri),
                tags={
                    "mlflow.experimentKind": "custom_model_development",
                    "mlflow.experiment.primaryMetric.name": "val/loss",
                    mlflow_view.VIEW_TAG: mlflow_view.view_state(),
                },
            )
            client.set_experiment_tag(made, mlflow_view.NOTE_TAG, mlflow_view.note(made))
            return str(made)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)  # another run made it at this moment
    if found.lifecycle_stage != "active":
        raise TrackedRunGoneError(
            f"the experiment {name!r} was deleted there; restore it (mlflow experiments restore -x"
            f" {found.experiment_id}), then trainwright sync {plan.run_id}"
        )
    if mlflow_view.VIEW_TAG not in found.tags:  # somebody else made it
        client.set_experiment_tag(found.experiment_id, mlflow_view.VIEW_TAG, mlflow_view.view_state())
    return str(found.experiment_id)


def _artifacts_beside(tracking_uri: str) -> str | None:
    """An SQLite store's artifacts go beside its file (MLflow would put them into the current folder)."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    return (Path(tracking_uri.removeprefix("sqlite:///")).parent / _ARTIFACTS).as_uri()


def _alive(client: Any, run_id: str) -> Any:
    """The run, or None where it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def _tagged(client: Any, experiment_id: str, plan: Plan) -> Any:
    found = client.search_runs([experiment_id], f"tags.`{RUN_TAG}` = '{plan.run_id}'", max_results=1)
    return found[0] if found else None


def _created(client: Any, experiment_id: str, plan: Plan, spool: Spool) -> Any:
    started_at = (spool.note("run.json") or {}).get("started_at")
    start = int(started_at * 1000) if started_at else None
    return client.create_run(experiment_id, start_time=start, tags=_tags(plan), run_name=plan.run_id)


def _tags(plan: Plan) -> dict[str, str]:
    job = plan.job
    tags = {
        "trainwright.run_id": plan.run_id,
        "trainwright.plan_digest": plan.digest,
        "trainwright.version": plan.version,
        "family": job.model.family,
        "strategy": job.strategy.kind,
        "cluster": plan.cluster,
        **source_tags(plan),
        **job.tracking.tags,
    }
    more = {"mlflow.note.content": job.description, "mlflow.source.git.commit": plan.git_commit}
    return {name: value for name, value in {**tags, **more}.items() if value}


def _describe(client: Any, run_id: str, plan: Plan, spool: Spool) -> None:
    from importlib.metadata import distributions

    import yaml
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    dataset = (spool.note("run.json") or {}).get("data", {})
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
