"""Delete what MLflow has of runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.errors import InfrastructureError
from orchestrator.planning.plan import Plan
from orchestrator.telemetry.closing import DESCRIPTION
from orchestrator.telemetry.spool import Spool


def delete_tracked(spools: Iterable[Spool]) -> None:
    """Delete runs in MLflow, with their models. From an SQLite store also their files, which nothing else would remove; a
    server keeps them until ``mlflow gc`` is run there. Those that are not there any more are passed over.

    Raises:
        InfrastructureError: MLflow does not answer.

    """
    for spool in spools:
        description = spool.note(DESCRIPTION)
        if description is not None:
            plan = Plan.model_validate(description["plan"]).moved_to(spool.storage)
            try:
                _delete(plan)
            except Exception as error:
                from orchestrator.telemetry.mlflow_errors import sentence

                raise InfrastructureError(
                    f"MLflow at {plan.tracking_uri} still has {plan.run_id}, of which nothing was deleted:"
                    f" {sentence(error, plan.tracking_uri)}; try again, or leave it there with --keep-mlflow"
                ) from error


def _delete(plan: Plan) -> None:
    from mlflow.entities import ViewType

    from orchestrator.telemetry.mlflow_run import RUN_TAG, connect

    client = connect(plan.tracking_uri)
    experiment = client.get_experiment_by_name(plan.job.tracking.experiment)
    if experiment is None:
        return
    wanted = f"tags.`{RUN_TAG}` = '{plan.run_id}'"
    for run in client.search_runs([experiment.experiment_id], wanted, run_view_type=ViewType.ALL):
        for model in client.search_logged_models(
            [experiment.experiment_id], f"source_run_id = '{run.info.run_id}'"
        ):
            client.delete_logged_model(model.model_id)
            if plan.tracking_uri.startswith("sqlite:"):
                _erase(model.artifact_location)
        if run.info.lifecycle_stage == "active":
            client.delete_run(run.info.run_id)
        if plan.tracking_uri.startswith("sqlite:"):
            _erase(run.info.artifact_uri)
            # what ``mlflow gc`` calls for each run; that one empties the experiments' trash as well
            client._tracking_client.store._hard_delete_run(run.info.run_id)


def _erase(artifacts: Any) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    get_artifact_repository(artifacts).delete_artifacts()
