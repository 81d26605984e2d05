"""What a launch waits for before its driver's first word, as its head's pod tells whoever may look at it. Pure.

The driver tells the same from inside, see ``orchestrator.waited``; this is for launches that have none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from orchestrator.clusters.kubernetes.pod_templates import HEAD_CONTAINER
from orchestrator.clusters.kubernetes.status import seconds_since_epoch
from orchestrator.ledger import ENVIRONMENT, IMAGE, NODES, QUEUE
from orchestrator.runs import Began


def waited_for(rayjob: dict[str, Any], pods: Iterable[dict[str, Any]]) -> list[Began]:
    """Each part with from when on, by the cluster's clocks; none where no head's pod is there, which says nothing of one that has
    been removed, unless its queue holds the job.

    Args:
        rayjob: of the launch.
        pods: of its newest Ray cluster.
    """
    heads = [pod for pod in pods if pod["metadata"]["labels"].get("ray.io/node-type") == "head"]
    if not heads and not rayjob["spec"].get("suspend"):
        return []
    job = (rayjob.get("status") or {}).get("rayJobInfo") or {}
    told = [
        (QUEUE, rayjob["metadata"].get("creationTimestamp")),
        *(_of_head(max(heads, key=_newest)) if heads else ()),
        (ENVIRONMENT, job.get("startTime")),
    ]
    return [(part, at) for part, stamp in told if (at := seconds_since_epoch(stamp))]


def _newest(pod: dict[str, Any]) -> tuple[bool, str]:
    """One that is being removed stands behind the one in its place."""
    metadata = pod["metadata"]
    return "deletionTimestamp" not in metadata, metadata.get("creationTimestamp", "")


def _of_head(pod: dict[str, Any]) -> list[tuple[str, str | None]]:
    """A container that was started again has kept when it was the last two times alone."""
    status = pod.get("status") or {}
    [container] = [one for one in status.get("containerStatuses") or [] if one["name"] == HEAD_CONTAINER] or [
        {}
    ]
    states = [container.get("state") or {}, container.get("lastState") or {}]
    runs = [state.get(kind) or {} for state in states for kind in ("running", "terminated")]
    starts = [run["startedAt"] for run in runs if run.get("startedAt")]
    return [
        (IMAGE, _since("PodScheduled", status)),
        (ENVIRONMENT, min(starts, default=None)),
        (NODES, _since("Ready", status)),
    ]


def _since(kind: str, status: dict[str, Any]) -> str | None:
    """Since when a pod's condition holds; None where it does not."""
    for condition in status.get("conditions") or []:
        if condition["type"] == kind and condition["status"] == "True":
            return str(condition["lastTransitionTime"])
    return None
