"""Kueue's manager beside KubeRay's operator: a process like the others, as its own account, by its own manifests.

The folder of binaries has it as ``kueue-manager``, beside ``kueue-manifests.yaml``, the file ``manifests.yaml`` of the
same release. Nothing routes Services here, so the API server calls its webhooks by the port that it listens on.
"""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path

import control_plane as control_planes
import yaml
from control_plane import ControlPlane, Object, wait_until

MANAGER = "kueue-manager"
MANIFESTS = "kueue-manifests.yaml"
_NAMESPACE = "kueue-system"
_ACCOUNT = "kueue-controller-manager"
_KINDS = ("Namespace", "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding")
"""What the manager needs besides its CRDs and webhooks."""


def missing() -> str | None:
    """Why no queue can be made here; None: it can."""
    folder = Path(os.environ[control_planes.VARIABLE])
    absent = [name for name in (MANAGER, MANIFESTS) if not (folder / name).exists()]
    return f"{control_planes.VARIABLE}={folder} lacks {', '.join(absent)}" if absent else None


def start(plane: ControlPlane) -> None:
    """Install Kueue and wait until it answers and its webhooks are called."""
    folder = plane.folder / "kueue"
    certificates = folder / "etc" / "kueue" / "metrics" / "certs"
    certificates.mkdir(parents=True)
    port, health = control_planes.free_port(), control_planes.free_port()
    certificate, key = plane.authority.issue("kueue-webhooks", hosts=["127.0.0.1"])
    shutil.copy(certificate, certificates / "tls.crt")
    shutil.copy(key, certificates / "tls.key")

    binaries = Path(os.environ[control_planes.VARIABLE])
    text = (binaries / MANIFESTS).read_text(encoding="utf-8")
    objects = list(yaml.load_all(text, yaml.CSafeLoader))
    ca = base64.b64encode(plane.authority.file.read_bytes()).decode()
    for body in _of_kind(objects, "CustomResourceDefinition"):
        conversion = body["spec"].get("conversion", {}).get("webhook")
        if conversion:
            _call_by_port(conversion["clientConfig"], port, ca)
        plane.apply(body)
    for kind in _KINDS:
        for body in _of_kind(objects, kind):
            plane.apply(body)

    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(_configuration(objects, certificates, port, health)), encoding="utf-8")
    kubeconfig = plane.account_kubeconfig(_NAMESPACE, _ACCOUNT)
    command = [str(binaries / MANAGER), f"--config={config}", "--feature-gates=VisibilityOnDemand=false"]
    # it looks for the certificate of its metrics, which are off, in one fixed place
    (folder / "work").mkdir()
    layers = f"lowerdir=/etc,upperdir={folder / 'etc'},workdir={folder / 'work'}"
    script = f'mount -t overlay overlay -o {layers} /etc && exec "$@"'
    with_etc = ["unshare", "--mount", "sh", "-c", script, "sh"]
    plane.start_command(MANAGER, [*with_etc, "env", f"KUBECONFIG={kubeconfig}", *command])
    plane.wait(MANAGER, f"http://127.0.0.1:{health}/readyz")
    for kind in ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"):
        for body in _of_kind(objects, kind):
            for webhook in body["webhooks"]:
                _call_by_port(webhook["clientConfig"], port, ca)
            plane.apply(body)


def make_queues(plane: ControlPlane, objects: list[Object]) -> None:
    """Apply the chart's own flavors and queues, and wait until Kueue takes jobs by them."""
    kinds = ("ResourceFlavor", "ClusterQueue", "LocalQueue")
    for body in [body for kind in kinds for body in _of_kind(objects, kind)]:
        plane.apply(body)
    for body in _of_kind(objects, "LocalQueue"):
        wait_until(
            f"queue {body['metadata']['name']} is active", lambda body=body: _is_active(plane.get(body))
        )


def _is_active(queue: Object) -> bool:
    conditions = queue.get("status", {}).get("conditions", [])
    return any((found["type"], found["status"]) == ("Active", "True") for found in conditions)


def _of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [body for body in objects if body and body["kind"] == kind]


def _call_by_port(client: Object, port: int, ca: str) -> None:
    path = client.pop("service")["path"]
    client |= {"url": f"https://127.0.0.1:{port}{path}", "caBundle": ca}


def _configuration(objects: list[Object], certificates: Path, port: int, health: int) -> Object:
    """The configuration that the manifests ship, but for ports, certificates and the election of a leader."""
    [shipped] = [
        body
        for body in _of_kind(objects, "ConfigMap")
        if "controller_manager_config.yaml" in body.get("data", {})
    ]
    made: Object = yaml.load(shipped["data"]["controller_manager_config.yaml"], yaml.CSafeLoader)
    return made | {
        "health": {"healthProbeBindAddress": f"127.0.0.1:{health}"},
        "metrics": {"bindAddress": "0"},
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(certificates)},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
    }
