"""When a run's head was given its node, and when its container began. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.clusters.base import Placed
from orchestrator.clusters.kubernetes.status import seconds_since_epoch

_HEAD_CONTAINER = "ray-head"


def placed(pods: Iterable[dict[str, Any]]) -> Placed | None:
    """Of the first of the head's pods whose container has begun; None where none has, or none is left.

    Args:
        pods: the head's, as the API server tells them.

    """
    found = [moments for pod in pods if (moments := _moments(pod.get("status") or {}))]
    return min(found, key=lambda moments: moments.started_at, default=None)


def _moments(status: dict[str, Any]) -> Placed | None:
    scheduled = [
        seconds_since_epoch(condition.get("lastTransitionTime"))
        for condition in status.get("conditions") or ()
        if condition["type"] == "PodScheduled" and condition["status"] == "True"
    ]
    started = [
        seconds_since_epoch(state.get("startedAt"))
        for container in status.get("containerStatuses") or ()
        if container["name"] == _HEAD_CONTAINER
        # what ran first, where it was started again
        for state in (*(container.get("lastState") or {}).values(), *(container.get("state") or {}).values())
        if state and state.get("startedAt")
    ]
    known = [moment for moment in started if moment is not None]
    if not known or not scheduled or scheduled[0] is None:
        return None
    return Placed(scheduled_at=scheduled[0], started_at=min(known))
