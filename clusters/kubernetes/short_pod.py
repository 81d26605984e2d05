"""A pod that lives for as long as a command here needs it, with claims mounted that only pods reach."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

from orchestrator.clusters.kubernetes.api import ApiServer
from orchestrator.clusters.kubernetes.pod_command import PodCommand
from orchestrator.clusters.kubernetes.pod_problems import IMAGE_MEND, ImageWatch, pods_problem
from orchestrator.clusters.kubernetes.pod_templates import files_template
from orchestrator.clusters.kubernetes.pods import Pods
from orchestrator.errors import InfrastructureError, NotFoundError, TrainwrightError
from orchestrator.spec.profile import ClusterProfile, MountedClaim

SHORT_POD = "trainwright/short-pod"
"""Label of all of them."""
_LONGEST_SECONDS = 12 * 3600
"""One whose command was killed ends by itself after so long; the next one removes what is left of it."""
_START_SECONDS = 600.0
_PROBLEM_SECONDS = 30.0
"""What keeps it from running for so long is told, and waited for no longer."""


class ShortPod:
    """Runs commands where claims are mounted. The pod is made for the first of them, and goes with ``close``, or where nobody
    holds this any more.

    Every method raises InfrastructureError where it can't run: with the right that is missing, or what Kubernetes says of it.
    """

    def __init__(
        self,
        server: ApiServer,
        claims: tuple[MountedClaim, ...],
        look_seconds: float = 0.5,
    ) -> None:
        """
        Args:
            server: of the cluster.
            claims: what it mounts; none for a command that reads from buckets.
            look_seconds: pause between two looks at a pod that starts.

        """
        self._profile, self._pods = server.profile, Pods(server)
        self._claims = claims
        self._look_seconds = look_seconds
        self._lock = threading.Lock()
        self._name = ""
        self._end: weakref.finalize[Any, Any] | None = None

    def run(self, command: Sequence[str]) -> str:
        """What a command prints."""
        return self.start(command).result()

    def start(self, command: Sequence[str], *, is_last: bool = False) -> PodCommand:
        """A command, with its input and output; the pod goes with the last one."""
        with self._lock:
            if not self._name:
                self._begin()
        try:
            return self._pods.run(self._name, command, self.close if is_last else lambda: None)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the pod."""
        if self._end is not None:
            self._end()
        self._name = ""

    def _begin(self) -> None:
        _sweep(self._pods)
        name = f"trainwright-files-{secrets.token_hex(4)}"
        self._pods.create(short_pod(self._profile, name, self._claims))
        self._end = weakref.finalize(self, _remove, self._pods, name)
        try:
            self._wait_until_running(name)
        except BaseException:
            self._end()
            raise
        self._name = name

    def _wait_until_running(self, name: str) -> None:
        began = time.monotonic()
        problem, problem_since = "", began
        images = ImageWatch()
        while True:
            pod = self._pods.get(name)
            status = pod.get("status") or {}
            if all(one.get("ready") for one in status.get("containerStatuses") or [{}]):
                return
            now = time.monotonic()
            if image := images.problem([pod]):
                raise self._not_running(f"{image}; {IMAGE_MEND}")
            before, problem = problem, pods_problem([pod]) or ""
            if not before:
                problem_since = now
            if status.get("phase") == "Failed" or (problem and now - problem_since >= _PROBLEM_SECONDS):
                raise self._not_running(problem)
            if now - began >= _START_SECONDS:
                raise self._not_running(problem or f"it has not started in {_START_SECONDS:g}s")
            time.sleep(self._look_seconds)

    def _not_running(self, problem: str) -> InfrastructureError:
        mounted = " and ".join(one.claim for one in self._claims)
        mounting = f" that mounts the claim {mounted}" if mounted else f" of image {self._profile.image}"
        return InfrastructureError(f"cluster {self._profile.name}: a pod{mounting} does not run: {problem}")


def short_pod(profile: ClusterProfile, name: str, claims: tuple[MountedClaim, ...]) -> dict[str, Any]:
    """The pod. Pure; it passes Pod Security "restricted"."""
    options = profile.kubernetes
    labels = {**options.labels, "app.kubernetes.io/managed-by": "trainwright", SHORT_POD: "files"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": options.namespace, "labels": labels},
        "spec": files_template(profile, claims, _LONGEST_SECONDS),
    }


def _sweep(pods: Pods) -> None:
    """Remove those that have ended by themselves."""
    for pod in pods.with_labels(SHORT_POD):
        if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            with contextlib.suppress(TrainwrightError):
                pods.delete(pod["metadata"]["name"])


def _remove(pods: Pods, name: str) -> None:
    with contextlib.suppress(TrainwrightError, NotFoundError):
        pods.delete(name)
