"""Bring MLflow up to date with a run's spool and its end, by whoever finds that it is not: driver, status, list, sync."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import InfrastructureError, NotFoundError
from orchestrator.ledger import Ledger
from orchestrator.planning.plan import Plan
from orchestrator.private import files_for_this_user_alone
from orchestrator.records import RunRecord
from orchestrator.runs import RunState, RunStatus
from orchestrator.telemetry.ledger_keeper import known_ledger
from orchestrator.telemetry.spool import Spool, sender_lock

logger = logging.getLogger("orchestrator")

DESCRIPTION = "run.json"
_CLOSED = "closed.json"
_STATUSES = {RunState.SUCCEEDED: "FINISHED", RunState.FAILED: "FAILED", RunState.STOPPED: "KILLED"}
_LOOK_REQUEST_SECONDS = 5
"""For whoever only looks."""


def describe_run(plan: Plan, *, data: Mapping[str, Any], started_at: float) -> None:
    """Keep with the run what its record in MLflow is made from, so that anybody can make it.

    Args:
        plan: of the launch.
        data: origin of the data sets by name, as ``Prepared.lineage``; empty where the run did not come so far.
        started_at: seconds since the epoch; of several launches the first one's stays.

    """
    if not plan.tracking_uri:
        return
    spool = Spool(plan.storage)
    known = spool.note(DESCRIPTION) or {}
    content = {
        "plan": plan.model_dump(mode="json"),
        "data": dict(data) or known.get("data", {}),
        "started_at": known.get("started_at", started_at),
    }
    spool.set_note(DESCRIPTION, content)


def is_closed(storage: str, end: RunStatus) -> bool:
    """Whether MLflow has been told this end, or there is nothing to tell it."""
    spool = Spool(storage)
    if spool.note(DESCRIPTION) is None:
        return True
    return spool.note(_CLOSED) == {"launch": end.launch, "status": _STATUSES[end.state]}


def close_quietly(
    storage: str, end: RunStatus, *, wait_seconds: float = 0.0, request_seconds: int = _LOOK_REQUEST_SECONDS
) -> bool:
    """Send what waits and tell MLflow the end, unless that was done, or another process is at it. Where that can't be
    done it is said as a warning, and the answer is False.

    Args:
        storage: the run's root.
        end: of the run.
        wait_seconds: how long another process that sends is waited for.
        request_seconds: how long an answer is waited for, where the environment does not say.

    """
    try:
        if is_closed(storage, end):
            return True
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(request_seconds))
        sync(storage, end, wait_seconds=wait_seconds)
        return True
    except (InfrastructureError, NotFoundError) as error:
        logger.warning("%s", error)
    except OSError as error:
        logger.warning("%s: the record of what was tracked can't be read: %s", storage, error)
    return False


def sync(storage: str, end: RunStatus | None, *, wait_seconds: float = 0.0, anew: bool = False) -> int | None:
    """Send what MLflow lacks of a run; returns the number of metric values, None where another process is at it.

    Args:
        storage: the run's root.
        end: of the run, where it has ended: MLflow is told.
        wait_seconds: how long another process that sends is waited for.
        anew: make the run again where it was deleted in MLflow.

    Raises:
        NotFoundError: the run keeps nothing for MLflow.
        InfrastructureError: MLflow did not take all; with what waits.

    """
    from orchestrator.telemetry.mlflow_errors import is_gone, sentence
    from orchestrator.telemetry.sending import Sender

    spool = Spool(storage)
    description = spool.note(DESCRIPTION)
    if description is None:
        raise NotFoundError(f"{storage}: this run keeps nothing for MLflow")
    plan = Plan.model_validate(description["plan"]).moved_to(storage)
    sent: Mapping[str, int] | None = None
    with files_for_this_user_alone(), sender_lock(storage, wait_seconds) as is_held:
        if not is_held:
            return None
        try:
            from orchestrator.telemetry.mlflow_run import MlflowRun

            run = MlflowRun.open(plan, spool, anew=anew)
            sender = Sender(spool, run)
            sent = sender.sent
            count = 0
            for values in sender.send_new():
                count, sent = count + values, sender.sent
            if end is not None:
                ledger = _ledger_of(RunRecord(storage), end)
                run.close(end.launch, _STATUSES[end.state], end.ended_at, ledger)
            return count
        except Exception as error:
            lacking = spool.lacking({} if is_gone(error) else sent)
            raise InfrastructureError(
                f"MLflow at {plan.tracking_uri} {lacking} of {plan.run_id}, which are kept:"
                f" {sentence(error, plan.tracking_uri)}"
            ) from error


def _ledger_of(record: RunRecord, end: RunStatus) -> Ledger | None:
    """Up to a launch's end, also where it came to no driver that would have written it."""
    ledger = known_ledger(record, end.launch)
    if ledger is None or record.newest_driver(end.launch):
        return ledger
    return ledger.with_launches([*end.launches_before(), end])
