"""Why a run's pods do not run, in Kubernetes' own words. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_MEND = {
    "ErrImagePull": "check image and secrets.image_pull_secrets of the profile",
    "ImagePullBackOff": "check image and secrets.image_pull_secrets of the profile",
    "InvalidImageName": "check image of the profile",
    "ErrImageNeverPull": "the node has not got the image, and kubernetes.image_pull_policy is Never",
    "CreateContainerConfigError": "check that the profile's secrets are there, with the keys it needs",
    "CreateContainerError": "the container can't be made on its node",
    "RunContainerError": "the container can't be started on its node",
    "CrashLoopBackOff": "it ends again and again; its log says why",
}
"""Reasons for which a container waits that do not go away by waiting, and what to do."""


def pods_problem(pods: Iterable[dict[str, Any]], ray_cluster: dict[str, Any] | None = None) -> str | None:
    """One sentence on the first pod that can't run, or on pods that can't be made; None where nothing is wrong.

    Args:
        pods: As the API server lists them.
        ray_cluster: The RayCluster that makes them; it says where a quota or an admission rule refuses pods.
    """
    found = [problem for pod in pods if (problem := _pod_problem(pod))]
    if found:
        more = f" (and {len(found) - 1} more pods)" if len(found) > 1 else ""
        return found[0] + more
    for condition in ((ray_cluster or {}).get("status") or {}).get("conditions") or []:
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return f"a pod can't be made: {_sentence(condition)}"
    return None


def queue_problem(workloads: Iterable[dict[str, Any]]) -> str | None:
    """What Kueue says of a job that waits in its queue."""
    for workload in workloads:
        for condition in (workload.get("status") or {}).get("conditions") or []:
            if condition.get("type") == "QuotaReserved" and condition.get("status") == "False":
                return f"waiting in queue {workload['spec'].get('queueName', '')}: {_sentence(condition)}"
    return None


def _pod_problem(pod: dict[str, Any]) -> str | None:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return f"pod {name} has no node: {_sentence(condition)}"
    if status.get("phase") == "Failed":
        return f"pod {name} failed: {status.get('reason') or 'no reason given'}: {status.get('message') or ''}".rstrip(
            ": "
        )
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    for container in containers:
        state = container.get("state") or {}
        waiting = state.get("waiting") or {}
        ended = state.get("terminated") or (container.get("lastState") or {}).get("terminated") or {}
        if ended.get("reason") == "OOMKilled":
            return f"pod {name}: {container['name']} used more than its memory and was killed (OOMKilled)"
        if waiting.get("reason") in _MEND:
            # a container that ended left its last words; those say more than that it is started again
            last_words = (ended.get("message") or "").strip().splitlines()
            said = last_words[-1][:300] if last_words else f"{_sentence(waiting)}; {_MEND[waiting['reason']]}"
            return f"pod {name}: {container['name']}: {said}"
    return None


def _sentence(said: dict[str, Any]) -> str:
    reason, message = said.get("reason") or "", (said.get("message") or "").strip().splitlines()
    text = message[0][:300].rstrip(".") if message else ""
    return f"{reason}: {text}" if reason and text and reason not in text else text or reason
