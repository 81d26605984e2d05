"""The RayJobs of a namespace, and what KubeRay and Kueue make of them there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from orchestrator.clusters.kubernetes.api import CONNECT_SECONDS, ApiServer
from orchestrator.clusters.kubernetes.errors import refusal
from orchestrator.clusters.kubernetes.request import RUN_LABEL
from orchestrator.clusters.kubernetes.status import launch_of
from orchestrator.clusters.shared.safe_names import label_value
from orchestrator.errors import NotFoundError

GROUP, VERSION = "ray.io", "v1"
_RAYJOBS = "rayjobs.ray.io"
_WATCH_SECONDS = 30


class RayJobs:
    """As objects of the API server. Every method may raise what ``ApiServer`` says."""

    def __init__(self, server: ApiServer) -> None:
        self._server = server
        self._where = (GROUP, VERSION, server.namespace, "rayjobs")

    def create(self, body: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Create one, or only let the server check it. Fields that the server's CRD doesn't know are refused."""
        more = {"dry_run": "All"} if dry_run else {}
        create = self._server.custom().create_namespaced_custom_object
        return self._server.call(
            "create", _RAYJOBS, create, *self._where, body, field_validation="Strict", **more
        )

    def get(self, name: str) -> dict[str, Any]:
        """One of them."""
        get = self._server.custom().get_namespaced_custom_object
        return self._server.call("get", _RAYJOBS, get, *self._where, name)

    def all_ours(self) -> list[dict[str, Any]]:
        """Those that trainwright made, of all runs and launches."""
        return self.with_labels("app.kubernetes.io/managed-by=trainwright")

    def of_run(self, run_id: str) -> list[dict[str, Any]]:
        """Those of a run, oldest launch first."""
        return sorted(self.with_labels(f"{RUN_LABEL}={label_value(run_id)}"), key=launch_of)

    def newest_of_run(self, run_id: str) -> dict[str, Any] | None:
        """That of a run's newest launch; None where there is none, or no longer."""
        return next(reversed(self.of_run(run_id)), None)

    def with_labels(self, selector: str) -> list[dict[str, Any]]:
        """All with some labels."""
        every = self._server.custom().list_namespaced_custom_object
        return self._server.pages(_RAYJOBS, every, *self._where, label_selector=selector)

    def patch(self, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        """Merge a patch into one."""
        merge = self._server.custom(merges=True).patch_namespaced_custom_object
        return self._server.call("patch", _RAYJOBS, merge, *self._where, name, patch)

    def delete(self, name: str) -> None:
        """Remove one with all that it owns; no matter if it is gone already."""
        delete = self._server.custom().delete_namespaced_custom_object
        body = {"propagationPolicy": "Background"}
        try:
            self._server.call("delete", _RAYJOBS, delete, *self._where, name, body=body)
        except NotFoundError:
            return

    def watch(self, name: str) -> Iterator[dict[str, Any]]:
        """One as it is now and after each change, until the caller has seen enough or it is deleted.

        A watch that the server ends, or whose place in history is gone (410), begins again from a fresh read.
        """
        from kubernetes import watch
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        while True:
            rayjob = self.get(name)
            yield rayjob
            stream = watch.Watch()
            try:
                for event in stream.stream(
                    self._server.custom().list_namespaced_custom_object,
                    *self._where,
                    field_selector=f"metadata.name={name}",
                    resource_version=rayjob["metadata"].get("resourceVersion"),
                    timeout_seconds=_WATCH_SECONDS,
                    _request_timeout=(CONNECT_SECONDS, _WATCH_SECONDS + 5.0),
                ):
                    if event["type"] == "DELETED":
                        return
                    yield event["object"]
            except ApiException as error:
                if error.status == 403:
                    said = str(error.body or "")
                    raise refusal(self._server.profile, "watch", _RAYJOBS, error.status, said) from None
                self._server.pause()
            except (HTTPError, ValueError, KeyError):
                self._server.pause()
            finally:
                stream.stop()

    def ray_cluster(self, name: str) -> dict[str, Any]:
        """A RayCluster that KubeRay made for one."""
        get = self._server.custom().get_namespaced_custom_object
        where = (GROUP, VERSION, self._server.namespace, "rayclusters")
        return self._server.call("get", "rayclusters.ray.io", get, *where, name)

    def workloads(self, uid: str) -> list[dict[str, Any]]:
        """Kueue's workloads of one, from whichever version of its API the server has."""
        every = self._server.custom().list_namespaced_custom_object
        for version in ("v1beta2", "v1beta1"):
            where = ("kueue.x-k8s.io", version, self._server.namespace, "workloads")
            selector = f"kueue.x-k8s.io/job-uid={uid}"
            try:
                return self._server.pages("workloads.kueue.x-k8s.io", every, *where, label_selector=selector)
            except NotFoundError:
                continue
        return []
