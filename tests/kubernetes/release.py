"""One release of the chart on the API server, by the real helm."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from chartkit.helm import IMAGE, Object, Values, helm, work_copy
from control_plane import ApiError, ControlPlane

from orchestrator.spec.profile import ClusterProfile

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
GENERATED = ("ray-token", "mlflow-admin", "mlflow-jobs")


def make_namespace(plane: ControlPlane, name: str, labels: dict[str, str] | None = None) -> None:
    """A namespace; by default one that enforces Pod Security "restricted"."""
    made = {"name": name, "labels": RESTRICTED if labels is None else labels}
    plane.create({"apiVersion": "v1", "kind": "Namespace", "metadata": made})


def make_storage_class(plane: ControlPlane) -> None:
    """A default StorageClass, of which no volume is ever made."""
    notes = {"storageclass.kubernetes.io/is-default-class": "true"}
    made = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "example.com/none"}
    plane.create({**made, "metadata": {"name": "standard", "annotations": notes}})


def pod_of(template: Object, name: str, namespace: str) -> Object:
    """The pod that a controller would make of a template."""
    made = copy.deepcopy(template)
    labels = made["metadata"].get("labels", {})
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": made["spec"],
    }


class Release:
    """Runs helm for one release.

    Args:
        folder: Helm's own files.
        kubeconfig: Of who runs helm. Default: the admin.
        has_nodes: Whether pods run.
    """

    def __init__(
        self,
        plane: ControlPlane,
        folder: Path,
        namespace: str,
        name: str = "train",
        kubeconfig: Path | None = None,
        *,
        has_nodes: bool = False,
    ) -> None:
        self.plane, self.namespace, self.name, self.has_nodes = plane, namespace, name, has_nodes
        self._environment = {"KUBECONFIG": str(kubeconfig or plane.admin_kubeconfig)} | {
            variable: str(folder) for variable in ("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
        }

    def run(self, verb: str, *arguments: str, values: Values | None = None) -> str:
        """Helm's output. Raises HelmError."""
        has_chart = verb in ("install", "upgrade")
        chart = [str(work_copy())] if has_chart else []
        filled = {"image": IMAGE, **(values or {})} if has_chart else None
        where = ["--namespace", self.namespace]
        words = verb.split()  # "get manifest"
        if verb == "uninstall" and not self.has_nodes:
            arguments = (*arguments, "--no-hooks")  # its check is a pod, which would run nowhere
        return helm(
            *words, self.name, *chart, *arguments, *where, values=filled, environment=self._environment
        )

    def rendered(self) -> list[Object]:
        """The objects of the release as helm sent them, without hooks."""
        return [o for o in yaml.load_all(self.run("get manifest"), yaml.CSafeLoader) if o]

    def live(self) -> dict[str, Object]:
        """The same objects as the server has them, by kind and name. Raises ApiError where one is missing."""
        return {
            f"{o['kind']}/{o['metadata']['name']}": self.plane.get(o, self.namespace) for o in self.rendered()
        }

    def secrets(self) -> dict[str, Any]:
        """Data of the generated Secrets."""
        path = f"/api/v1/namespaces/{self.namespace}/secrets"
        return {n: self.plane.request("GET", f"{path}/{self.name}-{n}").get("data") for n in GENERATED}

    def profile(self) -> ClusterProfile:
        """The cluster profile that the chart leaves for data scientists."""
        path = f"/api/v1/namespaces/{self.namespace}/configmaps/{self.name}-profile"
        text = self.plane.request("GET", path)["data"]["profile.yaml"]
        return ClusterProfile.model_validate(yaml.safe_load(text))

    def pods(self, selector: str = "") -> list[Object]:
        """Pods of the namespace."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        return list(self.plane.request("GET", path, labelSelector=selector)["items"])


def is_there(plane: ControlPlane, body: Object, namespace: str | None = None) -> bool:
    """Whether the server has an object of this kind and name."""
    try:
        plane.get(body, namespace)
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    return True
