"""A control plane with KubeRay's operator and nodes whose pods run: what a run on Kubernetes needs.

The operator is a process like the others of the control plane, from the same folder of binaries. The nodes are the
stand-in of ``node_agent``.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import control_plane as control_planes
import namespaces
import wrong_clock
import yaml
from chartkit.helm import find, render
from command_line import CommandLine
from control_plane import ApiError, ControlPlane, Object, wait_until
from crd_schema import CRD
from node_agent import Follower, NodeAgent, Pod, ServiceNames

from orchestrator.clusters.doctor.kubernetes import QUEUE_RIGHTS, RIGHTS

OPERATOR = "kuberay-operator"
NAMESPACE = "training"
IMAGE = "registry.example.com/trainwright:0.1.0"
STORAGE = "/mnt/trainwright"
_RAY = f"/apis/ray.io/v1/namespaces/{NAMESPACE}"
_RBAC = "rbac.authorization.k8s.io"
_CORE = f"/api/v1/namespaces/{NAMESPACE}"
_BY_TOKEN = "by-token"
_CREDENTIAL = "client.authentication.k8s.io/v1"


def missing(folder: Path) -> str | None:
    """Why no runs can be started here; None: they can."""
    if reason := control_planes.missing():
        return reason
    if not os.access(Path(os.environ[control_planes.VARIABLE]) / OPERATOR, os.X_OK):
        return f"{control_planes.VARIABLE}={os.environ[control_planes.VARIABLE]} lacks {OPERATOR}"
    if not CRD.exists():
        return f"KubeRay's CRDs are not in {CRD.parent}"
    if not namespaces.can_be_made(folder):
        return "pods need network namespaces: root on Linux, with ip, nsenter, unshare and setpriv"
    return None


class Event(NamedTuple):
    """An object, as a watch told of it."""

    at: float
    kind: str
    body: Object

    @property
    def deployment(self) -> str:
        """A RayJob's jobDeploymentStatus."""
        return str((self.body.get("status") or {}).get("jobDeploymentStatus") or "")


class Followed:
    """Events of a run that are read by a thread of their own.

    Args:
        events: As they come, until the run has ended.
    """

    def __init__(self, events: Iterator[Object]) -> None:
        self.told: list[Object] = []
        self._is_complete = False
        self._reader = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._reader.start()

    def _read(self, events: Iterator[Object]) -> None:
        for event in events:
            self.told.append(event)
        self._is_complete = True

    def of(self, kind: str) -> list[Object]:
        """All of a kind that have come."""
        return [event for event in list(self.told) if event["event"] == kind]

    def wait_for(self, kind: str, step: int) -> None:
        """Until one of a kind has come, of a step or a later one."""
        wait_until(
            f"{kind} of step {step}", lambda: any(one["step"] >= step for one in self.of(kind)), seconds=300
        )

    def to_the_end(self) -> list[Object]:
        """All events, once the run has ended."""
        self._reader.join(300)
        assert self._is_complete, self.told[-3:]
        return self.told


class KubeRay(CommandLine):
    """What is running, and a person's view of it, whose kubeconfig has the rights that doctor asks for, and no others.

    Attributes:
        plane: The control plane.
        nodes: The node agents.
        storage: The folder of this machine behind the storage claim.
    """

    def __init__(self, folder: Path, plane: ControlPlane) -> None:
        super().__init__(folder, folder / "home", KUBECONFIG=str(folder / "submitter.kubeconfig"))
        self.plane = plane
        self.storage = folder / "storage"
        self.storage.mkdir(mode=0o777)
        self.nodes: list[NodeAgent] = []
        self.history: list[Event] = []
        """Every change of RayJobs and pods, in order."""
        self._followers: list[Follower] = []
        self._token_seconds = 0.0
        """When a token of the person says that it ends."""
        self._token: tuple[str, str] | None = None
        """The Secret that it ends with, and itself; None: a certificate is used."""

    def watch(self) -> None:
        """Begin the history."""
        for path in (f"{_RAY}/rayjobs", f"{_CORE}/pods"):
            self._followers.append(Follower(self.plane, path, self._saw))

    def _saw(self, kind: str, body: Object) -> None:
        body.setdefault("kind", "Pod")  # items of a list say no kind
        self.history.append(Event(time.time(), kind, body))

    def of_rayjob(self, name: str) -> list[Event]:
        """All changes of one RayJob."""
        return [
            event
            for event in list(self.history)
            if (event.body["kind"], event.body["metadata"]["name"]) == ("RayJob", name)
        ]

    def ended_at(self, name: str) -> float:
        """When KubeRay said that a RayJob has ended, in seconds since the epoch."""
        return next(event.at for event in self.of_rayjob(name) if event.deployment in ("Complete", "Failed"))

    def gone_at(self, name: str) -> float:
        """When a RayJob was deleted; waits for the watch to tell, which may be behind a request."""
        deleted = wait_until(
            f"the watch tells that {name} is gone",
            lambda: [event.at for event in self.of_rayjob(name) if event.kind == "DELETED"],
        )
        return float(deleted[0])

    def pods_gone_at(self, run: str, kind: str) -> list[float]:
        """When each pod of a run was gone, of the kind head or worker."""
        wanted = {"trainwright/run": run, "ray.io/node-type": kind}
        return [
            event.at
            for event in list(self.history)
            if event.kind == "DELETED"
            and wanted.items() <= (event.body["metadata"].get("labels") or {}).items()
        ]

    def close(self) -> None:
        for follower in self._followers:
            follower.close()

    # -- a person's view ---------------------------------------------------------------------------------------

    def profile(self, name: str = "pool", **kubernetes: Any) -> Object:
        """A profile as the chart prints it, with further options of its section kubernetes."""
        return {
            "name": name,
            "kind": "kubernetes",
            "image": IMAGE,
            "ray_version": "2.60.0",
            "storage": STORAGE,
            "mlflow": f"sqlite:///{STORAGE}/mlflow.db",
            "secrets": {"ray_token_secret": "trainwright-ray-token"},
            "head": {"cpus": 1, "memory": "4GiB"},
            "node_groups": [
                {"name": "cpu", "cpus": 2, "memory": "3GiB", "min": 0, "max": 4, "shared_memory": "512MiB"}
            ],
            "kubernetes": {
                "context": "submitter",
                "namespace": NAMESPACE,
                "service_account": "trainwright-jobs",
                "storage_claim": "trainwright-storage",
                "start_deadline": "10m",
                "keep_head": "1h",
                "keep_job": "7d",
                **kubernetes,
            },
        }

    def profile_file(self, name: str = "pool", **kubernetes: Any) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(self.profile(name, **kubernetes)))
        return path

    def good(self, *arguments: str, timeout: float = 400) -> str:
        """What a call printed that has to end well."""
        answer = self.call(*arguments, timeout=timeout)
        assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
        return answer.stdout

    def status(self, run: str, file: Path) -> Object:
        return dict(json.loads(self.good("status", run, "--cluster", str(file), "--json")))

    def submit(self, run: str, file: Path, **sections: Any) -> None:
        """Digits by a small residual network on two workers, short unless sections say otherwise."""
        path = self._job_file(run, **sections)
        self.good("submit", str(path), "--cluster", str(file), "--id", run)

    def run(self, name: str, file: Path, **sections: Any) -> Followed:
        """The same by ``trainwright run``, followed."""
        path = self._job_file(name, **sections)
        return Followed(self._events_of("run", str(path), "--cluster", str(file), "--json"))

    def _job_file(self, stem: str, **sections: Any) -> Path:
        job = {
            "name": "digits",
            "model": {"family": "cnn", "size": "debug"},
            "data": {
                "train": {"kind": "builtin", "name": "digits"},
                "eval": {"kind": "split", "fraction": 0.1},
            },
            "training": {"max_steps": 60, "global_batch_size": 64, "log_every": 5},
            "checkpoint": {"every_steps": 20},
            "scaling": {"workers": 2, "cpus_per_worker": 2},
            "tracking": {"kind": "none"},
            "recovery": {"stop_grace": "20s", "hang_timeout": "60s", "worker_start_timeout": "180s"},
            **sections,
        }
        path = self.folder / f"{stem}.yaml"
        path.write_text(json.dumps(job))
        return path

    def follow(self, run: str, file: Path) -> Iterator[Object]:
        """Events of a run's driver as they come, until the run has ended."""
        return self._events_of("logs", run, "--cluster", str(file), "--follow", "--json")

    def _events_of(self, *arguments: str) -> Iterator[Object]:
        """Of a command that has to end well, where its output is read to the end."""
        command = self.command(*arguments)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=self.environment) as process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    yield json.loads(line)
                assert process.wait(60) == 0
            finally:
                process.terminate()

    def followed(self, run: str, file: Path) -> Followed:
        """The same, read beside the test."""
        return Followed(self.follow(run, file))

    def with_clock(self, ahead_seconds: float) -> KubeRay:
        """The same person at a machine whose clock is wrong, for all of it: Python, TLS, and commands that it calls."""
        made = copy.copy(self)
        made.environment = {**self.environment, **wrong_clock.ahead_by(ahead_seconds, self.folder)}
        return made

    def by_tokens_that_end(self, in_seconds: float) -> KubeRay:
        """Another person with the same rights, for whom a command fetches a token as a cloud's does; it says that the token
        ends so soon. ``next_token`` ends it.
        """
        subject = {"kind": "ServiceAccount", "name": _BY_TOKEN, "namespace": NAMESPACE}
        self.plane.apply(_named("v1", "ServiceAccount", _BY_TOKEN), NAMESPACE)
        self.plane.apply(_binding(_BY_TOKEN, "submitter", subject), NAMESPACE)
        made = copy.copy(self)
        made._token_seconds = in_seconds
        token = self.folder / "token.json"
        config = yaml.safe_load((self.folder / "submitter.kubeconfig").read_text())
        fetched = {"apiVersion": _CREDENTIAL, "command": "cat", "args": [str(token)]}
        config["users"][0]["user"] = {"exec": {**fetched, "interactiveMode": "Never"}}
        path = self.folder / "by-token.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        made.next_token()
        made.environment = {**self.environment, "KUBECONFIG": str(path)}
        return made

    def next_token(self) -> None:
        """Lay a new token where the command fetches it; the one before is taken no longer, as if its time were over."""
        name = f"{_BY_TOKEN}-{secrets.token_hex(4)}"
        self.plane.create(_named("v1", "Secret", name), NAMESPACE)
        token = self.plane.account_token(NAMESPACE, _BY_TOKEN, while_there=name)
        ends = datetime.now(UTC) + timedelta(seconds=self._token_seconds)
        status = {"token": token, "expirationTimestamp": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
        file, new = self.folder / "token.json", self.folder / "token.json.new"
        new.write_text(json.dumps({"apiVersion": _CREDENTIAL, "kind": "ExecCredential", "status": status}))
        new.replace(file)
        if self._token:
            secret, ended = self._token
            self.plane.delete(_named("v1", "Secret", secret), NAMESPACE)
            wait_until("the old token is refused", lambda: self._is_refused(ended))
        self._token = (name, token)

    def _is_refused(self, token: str) -> bool:
        try:
            self.plane.request("GET", f"{_CORE}/pods", token=token)
        except ApiError as error:
            return error.status == 401
        return False

    @contextlib.contextmanager
    def without_operator(self) -> Iterator[None]:
        """KubeRay's operator is away meanwhile, and comes back whatever happens."""
        self.plane.kill(OPERATOR)
        try:
            yield
        finally:
            self.plane.start_again(OPERATOR)

    @contextlib.contextmanager
    def with_storage_rights(self) -> Iterator[None]:
        """Meanwhile the person has the chart's role ``storage``, too."""
        role = find(render(), "Role", "train-storage")
        assert role is not None
        binding = _binding(
            "submitter-storage", "train-storage", {"apiGroup": _RBAC, "kind": "User", "name": "submitter"}
        )
        asked = {"namespace": NAMESPACE, "verb": "create", "resource": "pods", "subresource": "exec"}
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": "submitter", "resourceAttributes": asked},
        }
        reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        self.plane.apply(role, NAMESPACE)
        self.plane.create(binding, NAMESPACE)
        try:
            wait_until(
                "the role holds", lambda: self.plane.request("POST", reviews, review)["status"]["allowed"]
            )
            yield
        finally:
            self.plane.delete(binding, NAMESPACE)

    # -- the cluster's view ------------------------------------------------------------------------------------

    def rayjob(self, name: str) -> Object | None:
        with contextlib.suppress(ApiError):
            return self.plane.request("GET", f"{_RAY}/rayjobs/{name}")
        return None

    def config_map(self, name: str) -> Object | None:
        with contextlib.suppress(ApiError):
            return self.plane.request("GET", f"{_CORE}/configmaps/{name}")
        return None

    def pods(self, run: str, kind: str | None = None) -> list[Object]:
        """Pods of a run that are there now, of the kind head or worker."""
        selector = f"trainwright/run={run}" + (f",ray.io/node-type={kind}" if kind else "")
        return list(self.plane.request("GET", f"{_CORE}/pods", labelSelector=selector)["items"])

    def on_node(self, pod: Object) -> Pod:
        """The node agent's side of a pod."""
        name = pod["metadata"]["name"]
        found = [mine for node in self.nodes if (mine := node.pod(NAMESPACE, name))]
        assert found, f"pod {name} is on no node"
        return found[0]

    def delete_pod(self, pod: Object, **options: Any) -> None:
        self.plane.request("DELETE", f"{_CORE}/pods/{pod['metadata']['name']}", options or None)

    def evict_pod(self, pod: Object) -> None:
        """As a node drain does: the pod has its grace."""
        name = pod["metadata"]["name"]
        eviction = _named("policy/v1", "Eviction", name, namespace=NAMESPACE)
        self.plane.request("POST", f"{_CORE}/pods/{name}/eviction", eviction)

    def remove_all(self) -> None:
        """All RayJobs, and with them their pods, so that the next run finds room."""
        self.plane.request("DELETE", f"{_RAY}/rayjobs")
        pods = f"{_CORE}/pods?labelSelector=trainwright/run"
        wait_until("all pods go", lambda: not self.plane.request("GET", pods)["items"], seconds=300)

    def operator_log(self) -> str:
        return self.plane.log_of(OPERATOR).read_text(errors="replace")


@contextlib.contextmanager
def running(folder: Path) -> Iterator[KubeRay]:
    """A control plane, the operator and two nodes of four CPUs, while the context is open."""
    network = namespaces.Network(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(network.close)
        # nodes have no names that this machine could look up
        by_address = ["--kubelet-preferred-address-types=InternalIP"]
        plane = stack.enter_context(
            control_planes.running(
                folder / "control-plane", address=network.address, api_server_arguments=by_address
            )
        )
        made = KubeRay(folder, plane)
        names = ServiceNames(plane)
        stack.callback(names.close)
        _prepare(made)
        made.watch()
        stack.callback(made.close)
        _start_operator(plane, folder, names)
        for name in ("node-a", "node-b"):
            agent = NodeAgent(plane, network, folder / "nodes", name, images={IMAGE: ()}, names=names, cpus=5)
            made.nodes.append(agent)
            stack.callback(agent.close)
        yield made


def _prepare(made: KubeRay) -> None:
    plane = made.plane
    _install_crds(plane)
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    plane.create(_named("v1", "Namespace", NAMESPACE, labels=restricted))
    wait_until("the namespace's account", lambda: plane.request("GET", f"{_CORE}/serviceaccounts/default"))
    plane.create(_named("v1", "ServiceAccount", "trainwright-jobs"), NAMESPACE)
    token = base64.b64encode(secrets.token_hex(32).encode()).decode()
    secret = _named("v1", "Secret", "trainwright-ray-token") | {"data": {"auth_token": token}}
    plane.create(secret, NAMESPACE)
    _make_claim(plane, made.storage)
    _allow_submitter(plane, made.folder)


def _install_crds(plane: ControlPlane) -> None:
    crds = [
        yaml.load((CRD.parent / f"ray.io_{plural}.yaml").read_text(), yaml.CSafeLoader)
        for plural in ("rayjobs", "rayclusters")
    ]
    for crd in [*crds, _rayservices()]:
        plane.create(crd)
        served = f"/apis/ray.io/v1/{crd['spec']['names']['plural']}"
        wait_until(f"{served} is served", lambda served=served: plane.request("GET", served))


def _rayservices() -> Object:
    """A CRD that takes any RayService: the operator watches them, and runs have none."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": anything}}
    crd = _named("apiextensions.k8s.io/v1", "CustomResourceDefinition", "rayservices.ray.io")
    return crd | {
        "spec": {
            "group": "ray.io",
            "scope": "Namespaced",
            "names": {"kind": "RayService", "plural": "rayservices", "singular": "rayservice"},
            "versions": [{**version, "subresources": {"status": {}}}],
        }
    }


def _make_claim(plane: ControlPlane, folder: Path) -> None:
    name, size = "trainwright-storage", {"storage": "10Gi"}
    many = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    volume = {**many, "capacity": size, "hostPath": {"path": str(folder)}}
    plane.create(_named("v1", "PersistentVolume", name) | {"spec": volume})
    spec = {**many, "volumeName": name, "resources": {"requests": size}}
    claim = _named("v1", "PersistentVolumeClaim", name) | {"spec": spec}
    plane.create(claim, NAMESPACE)
    wait_until("the claim is bound", lambda: plane.get(claim, NAMESPACE)["status"].get("phase") == "Bound")


def _allow_submitter(plane: ControlPlane, folder: Path) -> None:
    """A user with exactly the rights that doctor looks for, and its kubeconfig."""
    rules = [
        {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
        for verb, resource, group in RIGHTS + QUEUE_RIGHTS
    ]
    plane.create(_named(f"{_RBAC}/v1", "Role", "submitter") | {"rules": rules}, NAMESPACE)
    user = {"apiGroup": _RBAC, "kind": "User", "name": "submitter"}
    plane.create(_binding("submitter", "submitter", user), NAMESPACE)
    plane.kubeconfig("submitter", namespace=NAMESPACE).rename(folder / "submitter.kubeconfig")


def _binding(name: str, role: str, subject: Object) -> Object:
    reference = {"apiGroup": _RBAC, "kind": "Role", "name": role}
    return _named(f"{_RBAC}/v1", "RoleBinding", name) | {"roleRef": reference, "subjects": [subject]}


def _start_operator(plane: ControlPlane, folder: Path, names: ServiceNames) -> None:
    """KubeRay's operator, where the names of Services are known."""
    hosts = folder / "operator-hosts"
    names.keep(hosts)
    port = control_planes.free_port()
    binary = Path(os.environ[control_planes.VARIABLE]) / OPERATOR
    arguments = [
        f"--kubeconfig={plane.admin_kubeconfig}",
        "--enable-leader-election=false",
        "--metrics-addr=0",
        f"--health-probe-bind-address=127.0.0.1:{port}",
    ]
    script = f'mount --bind {hosts} /etc/hosts && exec "$@"'
    plane.start_command(OPERATOR, ["unshare", "--mount", "sh", "-c", script, "sh", str(binary), *arguments])
    plane.wait(OPERATOR, f"http://127.0.0.1:{port}/readyz")


def _named(version: str, kind: str, name: str, **metadata: Any) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **metadata}}
