"""A control plane with nodes whose pods run, and nothing in it: what a person has before ``helm install``.

KubeRay's operator comes by the chart, as its own Deployment with its own account and rights; its image is the binary of
KUBEBUILDER_ASSETS. Volumes are folders of this machine.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import control_plane as control_planes
import kuberay
import namespaces
import yaml
from chartkit.helm import CHART, Object, binary, operator_chart, work_copy
from control_plane import ControlPlane
from kuberay import IMAGE, NAMESPACE, KubeRay
from node_agent import NodeAgent, ServiceNames
from pod_processes import Mount
from release import make_storage_class

OPERATOR_IMAGE = "quay.io/kuberay/operator:v1.7.0"
HERE = Path(__file__).resolve().parent
RELEASE = "train"
POOLS = {"heads": (2, 4), "workers": (3, 2), "services": (2, 4)}
"""Nodes by their label ``pool``: how many, and CPUs of each."""
VOLUMES = {"storage": "10Gi", "mlflow": "2Gi"}
"""Of each size that the preset of a laptop asks for, one, so that the claim finds its own."""


def missing(folder: Path) -> str | None:
    """Why no chart can be installed here so that its pods run; None: it can."""
    if reason := kuberay.missing(folder):
        return reason
    if operator_chart() is None:
        return "TRAINWRIGHT_KUBERAY_CHECKOUT is not set: the operator's own chart is in KubeRay's checkout of v1.7.0"
    return None


def on_pools() -> Object:
    """Values that give the head, the workers and the services nodes of their own; small ones, as of a laptop."""
    services = {"nodeSelector": {"pool": "services"}}
    return {
        "head": {"cpus": 1, "memory": "4Gi", "labels": {"pool": "heads"}},
        "nodeGroups": [
            {
                "name": "cpu",
                "cpus": 2,
                "memory": "3Gi",
                "max": 3,
                "sharedMemory": "512Mi",
                "labels": {"pool": "workers"},
            }
        ],
        "mlflow": services,
        "kuberay-operator": services,
    }


class Cluster(KubeRay):
    """What is running; a person who may submit, and an administrator beside them.

    Attributes:
        nodes: The node agents.
        storage: The folder of this machine behind the claim of the release.
    """

    def kubectl(self, *arguments: str, text: str = "") -> str:
        """What the administrator's kubectl prints."""
        return self._tool("kubectl", *arguments, text=text)

    def helm(self, *arguments: str, values: Object | None = None) -> str:
        """What the administrator's helm prints."""
        more = ("--values", "-") if values is not None else ()
        return self._tool("helm", *arguments, *more, text="" if values is None else yaml.safe_dump(values))

    def install(self, values: Object | None = None) -> str:
        """Helm's notes, once all that the chart runs is ready."""
        self.kubectl("create", "namespace", NAMESPACE)
        self.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
        where = (
            "--namespace",
            NAMESPACE,
            "--set",
            "image.registry=registry.example.com,image.repository=trainwright",
            "--wait",
            "--timeout",
            "10m",
        )
        preset = ("--values", str(CHART / "presets" / "laptop.yaml"))
        notes = self.helm("install", RELEASE, str(work_copy()), *preset, *where, values=values or {})
        self.plane.account_kubeconfig(NAMESPACE, f"{RELEASE}-submitter").rename(
            self.environment["KUBECONFIG"]
        )
        self.watch()
        return notes

    def profile_of_release(self) -> Path:
        """The profile that the chart leaves for data scientists, in a file."""
        path = self.folder / f"{RELEASE}.yaml"
        text = self.kubectl(
            "get", "configmap", f"{RELEASE}-profile", "-n", NAMESPACE, "-o", "jsonpath={.data.profile\\.yaml}"
        )
        path.write_text(text)
        return path

    def pods_of(self, selector: str) -> list[Object]:
        """Pods with some labels that are not going."""
        path = f"/api/v1/namespaces/{NAMESPACE}/pods"
        found = self.plane.request("GET", path, labelSelector=selector)["items"]
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def _tool(self, name: str, *arguments: str, text: str = "") -> str:
        homes = {f"HELM_{kind}_HOME": str(self.folder / "helm") for kind in ("CACHE", "CONFIG", "DATA")}
        done = subprocess.run(
            [binary(name), *arguments],
            input=text,
            capture_output=True,
            text=True,
            timeout=660,
            check=False,
            env={**self.environment, **homes, "KUBECONFIG": str(self.plane.admin_kubeconfig)},
            cwd=self.folder,
        )
        assert done.returncode == 0, f"{name} {' '.join(arguments)}: {done.stderr[-2000:]}"
        return done.stdout


@contextlib.contextmanager
def running(
    folder: Path, pools: dict[str, tuple[int, int]] = POOLS, *, quota_seconds: int = 15
) -> Iterator[Cluster]:
    """A control plane and nodes, while the context is open.

    Args:
        pools: See ``POOLS``.
        quota_seconds: How often quotas are counted; five minutes by default of Kubernetes, and a new one's RayJobs wait for it.
    """
    network = namespaces.Network(folder)
    operator = Mount(Path(os.environ[control_planes.VARIABLE]) / kuberay.OPERATOR, "/manager")
    images = {IMAGE: (), OPERATOR_IMAGE: (operator,)}
    by_address = ["--kubelet-preferred-address-types=InternalIP"]
    with contextlib.ExitStack() as stack:
        stack.callback(network.close)
        plane = stack.enter_context(
            control_planes.running(
                folder / "control-plane",
                address=network.address,
                api_server_arguments=by_address,
                controller_manager_arguments=[f"--resource-quota-sync-period={quota_seconds}s"],
            )
        )
        made = Cluster(folder, plane)
        make_storage_class(plane)
        for name, size in VOLUMES.items():
            _make_volume(plane, made.storage if name == "storage" else folder / name, name, size)
        names = ServiceNames(plane)
        stack.callback(names.close)
        stack.callback(made.close)
        for pool, (count, cpus) in pools.items():
            for number in range(count):
                agent = NodeAgent(
                    plane,
                    network,
                    folder / "nodes",
                    f"{pool}-{number}",
                    images=images,
                    names=names,
                    cpus=cpus,
                    labels={"pool": pool},
                )
                made.nodes.append(agent)
                stack.callback(agent.close)
        yield made


def _make_volume(plane: ControlPlane, folder: Path, name: str, size: str) -> None:
    folder.mkdir(mode=0o777, exist_ok=True)
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
        "storageClassName": "standard",
        "capacity": {"storage": size},
        "hostPath": {"path": str(folder)},
    }
    plane.create({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec})
