"""Which checkpoint a registered model of MLflow is."""

from __future__ import annotations

from orchestrator.errors import InfrastructureError, NotFoundError
from orchestrator.storage.faults import first_line

_MISSING = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def checkpoint_of(tracking_uri: str, name: str) -> str:
    """The folder of its checkpoint.

    Args:
        tracking_uri: of MLflow.
        name: ``models:/NAME/VERSION`` or ``models:/NAME@ALIAS``.

    Raises:
        NotFoundError: there is no such model, or it was not trained by a run of this program.
        InfrastructureError: MLflow does not answer.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    model, mark, alias = name.removeprefix("models:/").partition("@")
    model, _, version = (model, "", "") if mark else model.rpartition("/")
    client = MlflowClient(tracking_uri)
    try:
        found = (
            client.get_model_version_by_alias(model, alias)
            if mark
            else client.get_model_version(model, version)
        )
        kind, _, model_id = found.source.rpartition("/")
        tags = client.get_logged_model(model_id).tags if kind == "models:" else {}
    except MlflowException as error:
        if error.error_code in _MISSING:
            raise NotFoundError(
                f"{name}: MLflow at {tracking_uri} has no such model: {first_line(error)}"
            ) from None
        raise InfrastructureError(
            f"{name}: MLflow at {tracking_uri} does not answer: {first_line(error)}"
        ) from None
    if "checkpoint" not in tags:
        raise NotFoundError(f"{name} was registered by something else: it names no checkpoint of a run")
    return str(tags["checkpoint"])
