"""Metrics that were measured of a run's checkpoint after its training, kept and sent like those of the training itself."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.telemetry.closing import DESCRIPTION, sync
from orchestrator.telemetry.spool import Spool, open_spool


def is_tracked(storage: str) -> bool:
    """Whether a run has a record in MLflow."""
    return Spool(storage).note(DESCRIPTION) is not None


def track(storage: str, step: int, values: Mapping[str, float]) -> int | None:
    """Keep values with a run, and send what MLflow lacks of it. A name has one value at a step: the first stays.

    Args:
        storage: the run's root.
        step: of the checkpoint.
        values: by their whole names.

    Returns:
        How many of the values were new to the run; None while it sends by itself, as these too.

    Raises:
        OSError: the storage failed.
        InfrastructureError: MLflow did not take all; the values are kept and sent with the next that is.
    """
    spool = Spool(storage)
    known = spool.logged_after(step - 1)
    fresh = {name: value for name, value in values.items() if (name, step) not in known}
    if fresh:
        writer = open_spool(storage, spool.next_evaluation())
        writer.log(step, fresh)
        writer.close()
        if writer.lost:
            raise OSError(f"{storage} did not take them")
    return None if sync(storage, None) is None else len(fresh)
