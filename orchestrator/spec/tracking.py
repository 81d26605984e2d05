"""Where a run is looked at, and where its model goes."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal

from pydantic import model_validator

from orchestrator.section import Section, Written
from orchestrator.spec.addresses import StoreAddress


class RegisterSpec(Section):
    """Where the logged model goes in MLflow's registry."""

    name: Annotated[str, Written(r"^[^/:\s]([^/:]{0,198}[^/:\s])?$", "at most 200 letters, without / and :")]
    """The registered model, which is made where it is not there; each run adds a version."""
    alias: Annotated[
        str | None,
        Written(
            r"^(?!v\d+$|latest$)[A-Za-z0-9_-]{1,100}$",
            "letters, digits, _ and -, and not latest or v and a number, which MLflow keeps for itself",
        ),
    ] = None
    """A name that points to the version from then on, e.g. ``champion``. Default: none."""


with warnings.catch_warnings():
    # pydantic takes ``register`` for an attribute of ours; it is the metaclass's, which no instance has
    warnings.filterwarnings("ignore", 'Field name "register"')

    class TrackingSpec(Section):
        """Where runs, metrics and models are looked at."""

        kind: Literal["mlflow", "none"] = "mlflow"
        """The tracker."""
        uri: StoreAddress = None
        """MLflow tracking URI, without a password. Default: the cluster's, else ``MLFLOW_TRACKING_URI``, else SQLite in the
        home."""
        experiment: str = "trainwright"
        """MLflow experiment."""
        tags: dict[str, str] = {}
        """More tags of the run."""
        log_model: bool = True
        """Log the model so that it loads back with MLflow."""
        log_checkpoint: Literal["newest", "best"] = "newest"
        """Whose model: that of the newest checkpoint, or of the best by ``checkpoint.keep.metric``."""
        system_metrics: bool = False
        """Sample CPU, memory, GPUs, network and disk of each node, every 10 seconds, as ``system/node_0/...``."""
        register: RegisterSpec | None = None
        """Register the logged model. Default: it is logged with the run alone."""

        @model_validator(mode="after")
        def _registers_what_is_logged(self) -> TrackingSpec:
            if self.register is not None and not (self.log_model and self.kind == "mlflow"):
                raise ValueError("tracking.register needs tracking.log_model: true and tracking.kind: mlflow")
            return self
