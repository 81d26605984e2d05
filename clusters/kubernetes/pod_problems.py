"""Why a run's pods do not run, in Kubernetes' own words. Pure, but for ``ImageWatch``, which looks at the clock."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

IMAGE_MEND = (
    "name an image that is there in image of the profile (of the chart: image.registry, repository, tag), and where its registry"
    " asks for a user a Secret with that in secrets.image_pull_secrets (imagePullSecrets)"
)
_OF_IMAGES = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
)
_NEVER = re.compile(
    r"InvalidImageName|ErrImageNeverPull|not found|notfound|manifest unknown|denied|unauthorized|forbidden|no basic auth|"
    r"invalid reference",
    re.IGNORECASE,
)
"""What a registry, or a node, says of an image that no other try brings."""
_TRIES_SECONDS = 30.0
"""So long an image may fail to come otherwise: its registry may be busy."""
_MEND = {
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


class ImageWatch:
    """Tells of images that do not come: at once where no waiting brings them, else when that has lasted half a minute."""

    def __init__(self) -> None:
        self._since: float | None = None

    def problem(self, pods: Iterable[dict[str, Any]]) -> str | None:
        """Which image, and what is said of it."""
        found = next((sentence for pod in pods if (sentence := _image_problem(pod))), None)
        if found is None:
            self._since = None
            return None
        self._since = self._since or time.monotonic()
        is_lasting = time.monotonic() - self._since >= _TRIES_SECONDS
        return found if is_lasting or _NEVER.search(found) else None


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
    if image := _image_problem(pod):
        return f"{image}; {IMAGE_MEND}"
    for container in _containers(pod):
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


def _containers(pod: dict[str, Any]) -> Iterator[dict[str, Any]]:
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or []
    yield from status.get("containerStatuses") or []


def _image_problem(pod: dict[str, Any]) -> str | None:
    """Of the first container whose image is not there; without what mends it."""
    for container in _containers(pod):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _OF_IMAGES:
            wanted = f"image {image}" if (image := container.get("image")) else "its image"
            said = _sentence({**waiting, "message": _of_registry(waiting.get("message") or "")})
            return f"pod {pod['metadata']['name']}: {container['name']}: {wanted} can't be had: {said}"
    return None


def _of_registry(message: str) -> str:
    """What the registry said, without what the node says before it."""
    return message.rpartition(" desc = ")[2]


def _sentence(said: dict[str, Any]) -> str:
    reason, message = said.get("reason") or "", (said.get("message") or "").strip().splitlines()
    text = message[0][:300].rstrip(".") if message else ""
    return f"{reason}: {text}" if reason and text and reason not in text else text or reason
