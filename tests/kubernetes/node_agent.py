"""Stands in for the kubelet, the container engine and the network plugin, where a machine has none of them.

It registers a Node, keeps it ready, and runs the pods that the scheduler binds to it as processes (``pod_processes``),
each pod in a network namespace with an address of its own. It reports their states as a kubelet does, restarts
containers with growing pauses, asks the readiness probes, and mounts ConfigMaps, Secrets, claims and empty folders. Logs
and commands are had of it as of a kubelet (``kubelet_api``). Everything else is real.

What it does not do: pull images (an image is on the node or it is not), liveness probes, cgroups for CPU, eviction,
ports, and Services: the names of Services stand in each pod's hosts file with the addresses of the pods behind them, from
the EndpointSlices that the controller manager writes, and the API server's address is its own.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.client
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kubelet_api
import namespaces
from control_plane import ApiError, ControlPlane
from pod_processes import ContainerProcess, Log, Mount, make_memory_folder, remove_memory_folders

Object = dict[str, Any]

_TICK_SECONDS = 0.1
_HEARTBEAT_SECONDS = 5.0
_LATEST_PAUSE_SECONDS = 300.0
_CALM = datetime.timedelta(minutes=10)
"""After so long a run of a container its next restart is as its first."""
_PATH = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
IMAGE_ENVIRONMENT = {
    "PATH": _PATH,
    "HOME": "/tmp",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",
}
"""What the image's ENV lines say, with this Python's folder; and all pods share this machine's cores with what else it does."""


class Waiting(Exception):
    """Why a container can't be started yet; its state says so."""

    def __init__(self, reason: str, message: str = "") -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class Follower(threading.Thread):
    """Calls ``changed(kind, object)`` for each object of a list now and for each event after, until it is closed."""

    def __init__(
        self, plane: ControlPlane, path: str, changed: Callable[[str, Object], None], **query: str
    ) -> None:
        super().__init__(daemon=True)
        self._plane, self._path, self._changed, self._query = plane, path, changed, query
        self._is_closed = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._is_closed.is_set():
            try:
                listed = self._plane.request("GET", self._path, **self._query)
                for item in listed.get("items") or []:
                    self._changed("ADDED", item)
                version = listed["metadata"]["resourceVersion"]
                for line in self._plane.stream(
                    self._path, watch="true", resourceVersion=version, timeoutSeconds="60", **self._query
                ):
                    event = json.loads(line)
                    if self._is_closed.is_set() or event["type"] == "ERROR":
                        break
                    self._changed(event["type"], event["object"])
            except (OSError, ApiError, ValueError, http.client.HTTPException):
                self._is_closed.wait(0.5)

    def close(self) -> None:
        self._is_closed.set()


class ServiceNames:
    """Lines of a hosts file for all Services, from their EndpointSlices, kept up to date."""

    def __init__(self, plane: ControlPlane) -> None:
        self._slices: dict[tuple[str, str], tuple[str, list[str]]] = {}
        self._files: dict[Path, str] = {}
        self._lock = threading.Lock()
        self._follower = Follower(plane, "/apis/discovery.k8s.io/v1/endpointslices", self._changed)

    def keep(self, path: Path, own_lines: str = "") -> None:
        """From now on write all names into a file, behind its own lines."""
        with self._lock:
            self._files[path] = "127.0.0.1 localhost\n" + own_lines
            self._write(path)

    def forget(self, path: Path) -> None:
        with self._lock:
            self._files.pop(path, None)

    def close(self) -> None:
        self._follower.close()

    def _changed(self, kind: str, body: Object) -> None:
        metadata = body["metadata"]
        service = (metadata.get("labels") or {}).get("kubernetes.io/service-name")
        if not service:
            return
        addresses = [
            address
            for endpoint in body.get("endpoints") or []
            if (endpoint.get("conditions") or {}).get("ready") is not False
            for address in endpoint["addresses"]
        ]
        key = (metadata["namespace"], metadata["name"])
        with self._lock:
            if kind == "DELETED" or not addresses:
                self._slices.pop(key, None)
            else:
                self._slices[key] = (service, addresses)
            for path in self._files:
                self._write(path)

    def _write(self, path: Path) -> None:
        lines = [self._files[path]]
        for (namespace, _), (service, addresses) in sorted(self._slices.items()):
            short = f"{service}.{namespace}"
            lines.append(f"{addresses[0]} {short}.svc.cluster.local {short}.svc {short} {service}\n")
        # in place: the file is mounted, so it may not become another one
        with path.open("r+" if path.exists() else "w") as file:
            file.write("".join(lines))
            file.truncate()


class NodeAgent:
    """One node.

    Args:
        network: Where pods get their addresses; its first address is the node's.
        folder: For volumes and certificates.
        images: What is on the node, each with the files that it has beside this machine's; any other can't be pulled.
        names: Of Services.
        config_map_seconds: How often changed ConfigMaps reach their volumes. A kubelet takes up to a minute.
        first_restart_pause_seconds: Doubled with each restart of a container after the first, as a kubelet does.
    """

    def __init__(
        self,
        plane: ControlPlane,
        network: namespaces.Network,
        folder: Path,
        name: str,
        *,
        images: Mapping[str, Sequence[Mount]],
        names: ServiceNames,
        cpus: int = 8,
        memory: str = "16Gi",
        labels: dict[str, str] | None = None,
        config_map_seconds: float = 2.0,
        first_restart_pause_seconds: float = 10.0,
    ) -> None:
        self.plane, self.network, self.name, self.images, self.names = (
            plane,
            network,
            name,
            dict(images),
            names,
        )
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        self.config_map_seconds = config_map_seconds
        self.first_restart_pause_seconds = first_restart_pause_seconds
        self.pods: dict[str, Pod] = {}
        self.probes = ThreadPoolExecutor(8)
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._api = kubelet_api.KubeletApi(self)
        self._register(cpus, memory, labels or {})
        self._heart = threading.Thread(target=self._beat, daemon=True)
        self._heart.start()
        self._follower = Follower(
            plane, "/api/v1/pods", self._pod_changed, fieldSelector=f"spec.nodeName={name}"
        )

    def pod(self, namespace: str, name: str) -> Pod | None:
        """A pod that is on this node now."""
        with self._lock:
            for pod in self.pods.values():
                if (pod.namespace, pod.name) == (namespace, name):
                    return pod
        return None

    def forget_restarts(self) -> None:
        """Start what ends from now on again at once, as a kubelet does after ten minutes of calm."""
        with self._lock:
            for pod in self.pods.values():
                for container in pod.containers:
                    container.pauses = 0

    @property
    def is_closed(self) -> bool:
        return self._is_closed.is_set()

    def close(self) -> None:
        """End all pods without grace, and take no more."""
        self._is_closed.set()
        self._follower.close()
        self._api.close()
        with self._lock:
            pods = list(self.pods.values())
        for pod in pods:
            pod.abandon()
        for pod in pods:
            pod.join(20)
        self.probes.shutdown(wait=False, cancel_futures=True)
        self._heart.join(10)

    # -- the node ----------------------------------------------------------------------------------------------

    def _register(self, cpus: int, memory: str, labels: dict[str, str]) -> None:
        amounts = {"cpu": str(cpus), "memory": memory, "pods": "50", "ephemeral-storage": "20Gi"}
        fixed = {
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }
        self.plane.request(
            "POST",
            "/api/v1/nodes",
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": self.name, "labels": {**fixed, **labels}},
            },
        )
        self._status = {
            "capacity": amounts,
            "allocatable": amounts,
            "addresses": [
                {"type": "InternalIP", "address": self.network.address},
                {"type": "Hostname", "address": self.name},
            ],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self._api.port}},
            "declaredFeatures": kubelet_api.FEATURES,
        }
        self._say_ready()
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        self._lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self.name, "namespace": "kube-node-lease"},
            "spec": {"holderIdentity": self.name, "leaseDurationSeconds": 40},
        }
        with contextlib.suppress(ApiError):
            self.plane.request("POST", path, self._lease)
        self._lease_path = f"{path}/{self.name}"

    def _say_ready(self) -> None:
        now = _stamp()
        condition = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "message": "the node agent of the tests runs",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        self._patch_status(f"/api/v1/nodes/{self.name}", {**self._status, "conditions": [condition]})

    def _beat(self) -> None:
        while not self._is_closed.wait(_HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError, ApiError):
                self.plane.request(
                    "PATCH",
                    self._lease_path,
                    {"spec": {"renewTime": _micro_stamp()}},
                    content_type="application/merge-patch+json",
                )
                self._say_ready()

    def _patch_status(self, path: str, status: Object) -> None:
        self.plane.request(
            "PATCH", f"{path}/status", {"status": status}, content_type="application/merge-patch+json"
        )

    # -- its pods ----------------------------------------------------------------------------------------------

    def _pod_changed(self, kind: str, body: Object) -> None:
        uid = body["metadata"]["uid"]
        with self._lock:
            known = self.pods.get(uid)
            if known is None and kind != "DELETED" and not self._is_closed.is_set():
                if (body.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
                    return
                self.pods[uid] = Pod(self, body)
                return
        if known is not None:
            if kind == "DELETED":
                known.abandon()
            elif body["metadata"].get("deletionTimestamp"):
                known.end(body["metadata"].get("deletionGracePeriodSeconds", 30))

    def forget(self, pod: Pod) -> None:
        with self._lock:
            self.pods.pop(pod.uid, None)


class _Container:
    """A container over all its starts."""

    def __init__(self, spec: Object) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.process: ContainerProcess | None = None
        self.logs: list[Log] = []
        self.restarts = 0
        self.pauses = 0
        """Restarts for which the next one has to wait."""
        self.state: Object = {"waiting": {"reason": "PodInitializing"}}
        self.last_state: Object = {}
        self.start_again_at = 0.0
        self.is_ready = False
        self.probing: Future[bool] | None = None
        self.probe_at = 0.0
        self.failed_probes = 0

    @property
    def is_running(self) -> bool:
        return self.process is not None

    def status(self, image: str) -> Object:
        return {
            "name": self.name,
            "image": image,
            "imageID": "",
            "ready": self.is_ready,
            "started": self.is_running,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last_state,
        }


class Pod(threading.Thread):
    """One pod, from its binding to its end."""

    def __init__(self, agent: NodeAgent, body: Object) -> None:
        metadata = body["metadata"]
        super().__init__(daemon=True, name=f"pod {metadata['name']}")
        self.agent, self.body, self.spec = agent, body, body["spec"]
        self.uid, self.name, self.namespace = metadata["uid"], metadata["name"], metadata["namespace"]
        self.folder = agent.folder / self.uid
        self.ip = ""
        self.inits = [_Container(spec) for spec in self.spec.get("initContainers") or []]
        self.containers = [_Container(spec) for spec in self.spec["containers"]]
        self._grace: float | None = None
        self._is_abandoned = False
        self._told: Object = {}
        self._started_at = _stamp()
        self._wake = threading.Event()
        self._volumes: dict[str, Mount] = {}
        self._config_maps: list[tuple[Object, Path]] = []
        self._next_config_maps = 0.0
        self.start()

    # -- from outside ------------------------------------------------------------------------------------------

    def container(self, name: str) -> _Container:
        return next(each for each in [*self.containers, *self.inits] if each.name == name)

    def end(self, grace_seconds: float) -> None:
        """Ask its containers to end, and end them after the grace; then remove the object."""
        if self._grace is None or grace_seconds < self._grace:
            self._grace = grace_seconds
            self._wake.set()

    def abandon(self) -> None:
        """The object is gone, or the node is: end all at once."""
        self._is_abandoned = True
        self._wake.set()

    # -- the life ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            self.folder.mkdir(parents=True)
            self.ip = self.agent.network.add(self.name)
            self.agent.network.route_to_here(self.name)
            hosts = self.folder / "hosts"
            self.agent.names.keep(hosts, f"{self.ip} {self.name}\n")
            while not self._is_over():
                self._step()
                self._tell()
                self._wake.wait(_TICK_SECONDS)
            self._tell()
            self._wait_for_deletion()
            self._end_all()
        finally:
            self._kill()
            self.agent.names.forget(self.folder / "hosts")
            self.agent.network.remove(self.name)
            self.agent.forget(self)
            shutil.rmtree(self.folder, ignore_errors=True)

    def _is_over(self) -> bool:
        if self._is_abandoned or self._grace is not None:
            return True
        return self._phase() in ("Succeeded", "Failed")

    def _wait_for_deletion(self) -> None:
        while not self._is_abandoned and self._grace is None:
            self._wake.wait(1.0)
            self._wake.clear()

    def _step(self) -> None:
        for init in self.inits:
            self._look_at(init, always=False)
            if "terminated" not in init.state or init.state["terminated"]["exitCode"] != 0:
                return
            init.is_ready = True
        for container in self.containers:
            self._look_at(container, always=True)
        self._update_config_maps()

    def _look_at(self, container: _Container, *, always: bool) -> None:
        if container.process is not None:
            if container.process.exit_code() is None:
                self._probe(container)
                return
            self._ended(container)
        policy = self.spec.get("restartPolicy", "Always")
        if ended := container.state.get("terminated"):
            is_good = ended["exitCode"] == 0
            if policy == "Never" or (is_good and (policy == "OnFailure" or not always)):
                return
            container.last_state = container.state
            pause = self.agent.first_restart_pause_seconds * 2 ** (container.pauses - 1)
            pause = 0.0 if container.pauses == 0 else min(pause, _LATEST_PAUSE_SECONDS)
            container.start_again_at = time.monotonic() + pause
            container.restarts += 1
            container.pauses += 1
            message = f"back-off {pause:g}s restarting failed container={container.name} pod={self.name}"
            container.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
        if "waiting" in container.state and time.monotonic() >= container.start_again_at:
            self._start(container)

    def _start(self, container: _Container) -> None:
        try:
            image = container.spec["image"]
            if image not in self.agent.images:
                raise Waiting("ErrImagePull", f'failed to pull and unpack image "{image}": not found')
            mounts = [*self.agent.images[image], *self._mounts(container)]
            environment = self._environment(container.spec)
        except OSError as error:  # the API server is away; a kubelet waits for what it needs to know, too
            container.state = {"waiting": {"reason": "ContainerCreating", "message": str(error)}}
            container.start_again_at = time.monotonic() + 1.0
            return
        except Waiting as waiting:
            reason = waiting.reason
            if reason == "ErrImagePull" and "ErrImagePull" in str(container.state):
                reason = "ImagePullBackOff"
            container.state = {"waiting": {"reason": reason, "message": waiting.message}}
            container.start_again_at = time.monotonic() + 1.0
            return
        security = {
            **(self.spec.get("securityContext") or {}),
            **(container.spec.get("securityContext") or {}),
        }
        limit = ((container.spec.get("resources") or {}).get("limits") or {}).get("memory")
        container.process = ContainerProcess(
            enter=self.agent.network.enter(self.name),
            name=f"{self.uid}-{container.name}-{container.restarts}",
            host_name=self.name[:63],
            command=[
                expanded(word, environment)
                for word in [*(container.spec.get("command") or []), *(container.spec.get("args") or [])]
            ],
            environment=environment,
            mounts=mounts,
            security=security,
            memory_bytes=quantity_bytes(limit) if limit else None,
        )
        container.logs.append(container.process.log)
        container.state = {"running": {"startedAt": _stamp()}}
        probe = container.spec.get("readinessProbe") or {}
        container.is_ready = "httpGet" not in probe
        container.probe_at = time.monotonic() + probe.get("initialDelaySeconds", 0)
        container.failed_probes = 0

    def _ended(self, container: _Container) -> None:
        process = container.process
        assert process is not None
        process.clean()
        if datetime.datetime.now(datetime.UTC) - process.started_at > _CALM:
            container.pauses = 0
        code = process.exit_code() or 0
        reason = "Completed" if code == 0 else "OOMKilled" if process.was_out_of_memory() else "Error"
        ended = {
            "exitCode": code,
            "reason": reason,
            "startedAt": process.started_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "finishedAt": _stamp(),
        }
        if code and container.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            ended["message"] = process.log.last_words()
        container.state = {"terminated": ended}
        container.process = None
        container.is_ready = False

    def _probe(self, container: _Container) -> None:
        probe = container.spec.get("readinessProbe") or {}
        if "httpGet" not in probe:
            return
        if container.probing is not None:
            if not container.probing.done():
                return
            is_good, container.probing = container.probing.result(), None
            container.failed_probes = 0 if is_good else container.failed_probes + 1
            if is_good:
                container.is_ready = True
            elif container.failed_probes >= probe.get("failureThreshold", 3):
                container.is_ready = False
            container.probe_at = time.monotonic() + probe.get("periodSeconds", 10)
        elif time.monotonic() >= container.probe_at:
            asked = probe["httpGet"]
            ports = {port.get("name"): port["containerPort"] for port in container.spec.get("ports") or []}
            port = ports.get(asked["port"], asked["port"])
            seconds = probe.get("timeoutSeconds", 1)
            container.probing = self.agent.probes.submit(
                _answers, self.ip, port, asked.get("path", "/"), seconds
            )

    # -- what a container sees -----------------------------------------------------------------------------------

    def _environment(self, spec: Object) -> dict[str, str]:
        made = dict(IMAGE_ENVIRONMENT) | {
            "KUBERNETES_SERVICE_HOST": self.agent.plane.address,
            "KUBERNETES_SERVICE_PORT": str(self.agent.plane.port),
            "KUBERNETES_SERVICE_PORT_HTTPS": str(self.agent.plane.port),
        }
        for source in spec.get("envFrom") or []:
            for kind, plural in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
                if kind in source:
                    made |= self._values(plural, source[kind]["name"])
        for entry in spec.get("env") or []:
            if "valueFrom" in entry:
                made[entry["name"]] = self._value(entry["valueFrom"], spec)
            else:
                made[entry["name"]] = expanded(entry.get("value", ""), made)
        return made

    def _value(self, source: Object, spec: Object) -> str:
        if field := source.get("fieldRef"):
            return self._field(field["fieldPath"])
        for kind, plural in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
            if reference := source.get(kind):
                values = self._values(plural, reference["name"])
                if reference["key"] not in values:
                    what = f"couldn't find key {reference['key']} in {plural[:-1]} {self.namespace}/{reference['name']}"
                    raise Waiting("CreateContainerConfigError", what)
                return values[reference["key"]]
        if reference := source.get("resourceFieldRef"):
            bound, _, resource = reference["resource"].partition(".")
            return str(spec["resources"][bound][resource])
        raise AssertionError(f"the node agent knows no {source}")

    def _field(self, path: str) -> str:
        if match := re.fullmatch(r"metadata\.(labels|annotations)\['(.*)'\]", path):
            return str((self.body["metadata"].get(match[1]) or {}).get(match[2], ""))
        known = {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "metadata.uid": self.uid,
            "status.podIP": self.ip,
            "status.hostIP": self.agent.network.address,
            "spec.nodeName": self.agent.name,
        }
        return known[path]

    def _values(self, plural: str, name: str) -> dict[str, str]:
        content = self._content(plural, name)
        return {key: value.decode() for key, value in content.items()}

    def _content(self, plural: str, name: str) -> dict[str, bytes]:
        try:
            found = self.agent.plane.request("GET", f"/api/v1/namespaces/{self.namespace}/{plural}/{name}")
        except ApiError as error:
            raise Waiting("CreateContainerConfigError", error.message) from None
        if plural == "secrets":
            return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
        texts = {key: value.encode() for key, value in (found.get("data") or {}).items()}
        return texts | {
            key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()
        }

    def _mounts(self, container: _Container) -> list[Mount]:
        # nobody answers there, and says so at once: names are those of the hosts file, and no others
        resolver = self.folder / "resolv.conf"
        resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        mounts = [Mount(self.folder / "hosts", "/etc/hosts"), Mount(resolver, "/etc/resolv.conf")]
        volumes = {volume["name"]: volume for volume in self.spec.get("volumes") or []}
        for mount in container.spec.get("volumeMounts") or []:
            volume = volumes[mount["name"]]
            found = self._volume(volume)
            path = found / mount["subPath"] if mount.get("subPath") else found
            mounts.append(Mount(path, mount["mountPath"]))
        return mounts

    def _volume(self, volume: Object) -> Path:
        """The volume's folder on this machine. Raises Waiting where it can't be had yet, as a kubelet's mount fails."""
        path = self.folder / "volumes" / volume["name"]
        try:
            if claim := volume.get("persistentVolumeClaim"):
                return self._claimed(claim["claimName"])
            if source := volume.get("configMap"):
                self._write(path, self._content("configmaps", source["name"]))
                if (volume, path) not in self._config_maps:
                    self._config_maps.append((volume, path))
                return path
            if source := volume.get("secret"):
                self._write(path, self._content("secrets", source["secretName"]))
                return path
            if source := volume.get("projected"):
                self._write(path, self._projected(source["sources"]))
                return path
        except Waiting as waiting:
            raise Waiting("ContainerCreating", waiting.message) from None
        empty = volume.get("emptyDir") or {}
        if not path.exists():
            if empty.get("medium") == "Memory":
                make_memory_folder(path, quantity_bytes(empty.get("sizeLimit", "64Mi")))
            else:
                path.mkdir(parents=True)
            path.chmod(0o1777)
        return path

    def _projected(self, sources: Sequence[Object]) -> dict[str, bytes]:
        """What a pod knows of the API server: its account's token, whom to trust, and its namespace."""
        made: dict[str, bytes] = {}
        for source in sources:
            if token := source.get("serviceAccountToken"):
                account = self.spec["serviceAccountName"]
                made[token["path"]] = self.agent.plane.account_token(self.namespace, account).encode()
            for item in (source.get("configMap") or {}).get("items") or []:
                made[item["path"]] = self._content("configmaps", source["configMap"]["name"])[item["key"]]
            for item in (source.get("downwardAPI") or {}).get("items") or []:
                made[item["path"]] = self._field(item["fieldRef"]["fieldPath"]).encode()
        return made

    def _claimed(self, name: str) -> Path:
        plane = self.agent.plane
        try:
            claim = plane.request("GET", f"/api/v1/namespaces/{self.namespace}/persistentvolumeclaims/{name}")
            volume = plane.request("GET", f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
        except (ApiError, KeyError) as error:
            raise Waiting("ContainerCreating", f"the claim {name} has no volume: {error}") from None
        path = Path(volume["spec"]["hostPath"]["path"])
        group = (self.spec.get("securityContext") or {}).get("fsGroup")
        if group is not None and path.stat().st_gid != group:
            os.chown(path, -1, group)
            path.chmod(0o2775)
        return path

    def _write(self, folder: Path, content: dict[str, bytes]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in content.items():
            path, fresh = folder / name, folder / f".{name}.new"
            if not path.exists() or path.read_bytes() != value:
                fresh.write_bytes(value)
                fresh.replace(path)
        for path in folder.iterdir():
            if path.name not in content:
                path.unlink()

    def _update_config_maps(self) -> None:
        if time.monotonic() < self._next_config_maps:
            return
        self._next_config_maps = time.monotonic() + self.agent.config_map_seconds
        for volume, path in self._config_maps:
            with contextlib.suppress(Waiting, OSError):
                self._write(path, self._content("configmaps", volume["configMap"]["name"]))

    # -- what is told --------------------------------------------------------------------------------------------

    def _phase(self) -> str:
        failed = [each for each in self.inits if _ended_for_good(each, self.spec, is_init=True)]
        if any(each.state["terminated"]["exitCode"] for each in failed):
            return "Failed"
        if all(_ended_for_good(each, self.spec) for each in self.containers):
            codes = [each.state["terminated"]["exitCode"] for each in self.containers]
            return "Failed" if any(codes) else "Succeeded"
        has_started = any(each.logs for each in self.containers)
        return "Running" if has_started else "Pending"

    def _status(self) -> Object:
        is_initialized = all("terminated" in each.state and each.is_ready for each in self.inits)
        is_ready = all(each.is_ready and each.is_running for each in self.containers)
        conditions = {
            "PodScheduled": True,
            "PodReadyToStartContainers": bool(self.ip),
            "Initialized": is_initialized,
            "ContainersReady": is_ready,
            "Ready": is_ready,
        }
        return {
            "phase": self._phase(),
            "startTime": self._started_at,
            "hostIP": self.agent.network.address,
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "conditions": [
                {
                    "type": kind,
                    "status": str(value),
                    "lastTransitionTime": self._since(kind, value),
                    **({} if value else {"reason": "ContainersNotReady"}),
                }
                for kind, value in conditions.items()
            ],
            "initContainerStatuses": [each.status(each.spec["image"]) for each in self.inits],
            "containerStatuses": [each.status(each.spec["image"]) for each in self.containers],
        }

    def _since(self, kind: str, value: bool) -> str:
        for told in self._told.get("conditions") or []:
            if (told["type"], told["status"]) == (kind, str(value)):
                return str(told["lastTransitionTime"])
        return _stamp()

    def _tell(self) -> None:
        status = self._status()
        if status == self._told:
            return
        try:
            self.agent._patch_status(f"/api/v1/namespaces/{self.namespace}/pods/{self.name}", status)
            self._told = status
        except ApiError as error:
            if error.status == 404:
                self.abandon()
        except OSError:
            pass  # the API server is busy or away; told at the next step

    # -- the end -------------------------------------------------------------------------------------------------

    def _end_all(self) -> None:
        running = [each for each in [*self.inits, *self.containers] if each.process is not None]
        if not self._is_abandoned:
            for each in running:
                assert each.process is not None
                each.process.send(signal.SIGTERM)
            began = time.monotonic()
            while any(each.process and each.process.exit_code() is None for each in running):
                self._wake.clear()
                if self._is_abandoned or time.monotonic() > began + (self._grace or 0.0):
                    break
                self._wake.wait(_TICK_SECONDS)
        self._kill()
        if self._is_abandoned:
            return
        self._tell()
        while not self._remove_object():
            self._wake.wait(1.0)

    def _remove_object(self) -> bool:
        """Whether the object is gone; not yet where the API server is away."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        try:
            self.agent.plane.request(
                "DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
            )
        except ApiError as error:
            return error.status < 500 or self._is_abandoned
        except OSError:
            return self._is_abandoned
        return True

    def _kill(self) -> None:
        for each in [*self.inits, *self.containers]:
            if each.process is not None:
                each.process.send(signal.SIGKILL)
                self._ended(each)
        remove_memory_folders(self.folder)


def expanded(text: str, variables: Mapping[str, str]) -> str:
    """A text with values for ``$(NAME)``, as Kubernetes puts them into commands and variables: unknown names stay, and ``$$``
    is a dollar.
    """
    return re.sub(
        r"\$(?:\$|\(([^()]*)\))",
        lambda at: "$" if at[0] == "$$" else variables.get(at[1], at[0]),
        text,
    )


def _ended_for_good(container: _Container, spec: Object, *, is_init: bool = False) -> bool:
    if "terminated" not in container.state:
        return False
    policy = spec.get("restartPolicy", "Always")
    is_good = container.state["terminated"]["exitCode"] == 0
    return policy == "Never" or (is_good and (policy == "OnFailure" or is_init))


def _answers(address: str, port: int, path: str, seconds: float) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=seconds)
    try:
        connection.request("GET", path)
        return connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def quantity_bytes(text: str) -> int:
    """Bytes of a Kubernetes quantity."""
    factors = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "k": 10**3, "M": 10**6, "G": 10**9}
    for suffix, factor in factors.items():
        if str(text).endswith(suffix):
            return int(float(str(text)[: -len(suffix)]) * factor)
    return int(text)


def _stamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _micro_stamp() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
