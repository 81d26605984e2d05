"""A Kubernetes API server as far as helm needs one: discovery, and objects that are created, read and patched.

It keeps objects in memory and checks nothing but that they exist. Helm's own records come as protobuf, of which
the name and the labels are read and the bytes are given back as they came. Enough to run the real `helm install`, `upgrade`
and `uninstall` with their `lookup`s; not a test of admission.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import yaml

Object = dict[str, Any]

# group/version -> (kind, plural, namespaced)
KINDS: dict[str, list[tuple[str, str, bool]]] = {
    "v1": [
        ("ConfigMap", "configmaps", True),
        ("LimitRange", "limitranges", True),
        ("Namespace", "namespaces", False),
        ("Node", "nodes", False),
        ("PersistentVolumeClaim", "persistentvolumeclaims", True),
        ("Pod", "pods", True),
        ("ResourceQuota", "resourcequotas", True),
        ("Secret", "secrets", True),
        ("Service", "services", True),
        ("ServiceAccount", "serviceaccounts", True),
    ],
    "apps/v1": [("Deployment", "deployments", True)],
    "batch/v1": [("CronJob", "cronjobs", True), ("Job", "jobs", True)],
    "networking.k8s.io/v1": [("Ingress", "ingresses", True), ("NetworkPolicy", "networkpolicies", True)],
    "policy/v1": [("PodDisruptionBudget", "poddisruptionbudgets", True)],
    "rbac.authorization.k8s.io/v1": [("Role", "roles", True), ("RoleBinding", "rolebindings", True)],
    "scheduling.k8s.io/v1": [("PriorityClass", "priorityclasses", False)],
    "storage.k8s.io/v1": [("StorageClass", "storageclasses", False)],
}

STORAGE_CLASSES = "/apis/storage.k8s.io/v1/storageclasses"


class FakeApi:
    """What the server holds: objects by the path that they are read from. It has one StorageClass, the default.

    Attributes:
        writes: Verb and path of each change.
        job_ends: How a Job ends, at once: Complete or Failed.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.writes: list[tuple[str, str]] = []
        self.job_ends = "Complete"
        self.removed: dict[str, Object] = {}
        self.changed = threading.Condition()
        self.is_over = False
        self.storage_class("shared", "nfs.example.com", default=True)

    def wrote(self, verb: str, path: str) -> None:
        """Note a change, and tell who watches."""
        with self.changed:
            self.writes.append((verb, path))
            self.changed.notify_all()

    def end(self) -> None:
        """End every watch."""
        with self.changed:
            self.is_over = True
            self.changed.notify_all()

    def storage_class(self, name: str, provisioner: str, *, default: bool = False) -> None:
        """Make a StorageClass."""
        notes = {"storageclass.kubernetes.io/is-default-class": "true"} if default else {}
        metadata = {"name": name, "annotations": notes}
        o = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": metadata}
        self.objects[f"{STORAGE_CLASSES}/{name}"] = {**o, "provisioner": provisioner}

    def nodes(self, count: int) -> None:
        """Make nodes."""
        for name in (f"node-{number}" for number in range(count)):
            node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
            self.objects[f"/api/v1/nodes/{name}"] = node

    def secret(self, name: str, namespace: str = "training") -> Object | None:
        """A Secret, or None."""
        return self.objects.get(f"/api/v1/namespaces/{namespace}/secrets/{name}")


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message; numbers are passed over."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while position < len(data):
        tag = varint()
        if tag & 7 == 2:
            length = varint()
            yield tag >> 3, data[position : position + length]
            position += length
        else:
            varint()


def _field(number: int, value: bytes) -> bytes:
    length, encoded = len(value), bytearray([number << 3 | 2])
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*encoded, length]) + value


_PROTOBUF = b"k8s\0"


def _from_protobuf(data: bytes) -> Object:
    """An object of which only name and labels are known, beside its bytes."""
    raw = dict(_fields(data.removeprefix(_PROTOBUF)))[2]
    metadata = list(_fields(dict(_fields(raw))[1]))
    pairs = [dict(_fields(value)) for number, value in metadata if number == 11]
    labels = {pair[1].decode(): pair[2].decode() for pair in pairs}
    return {"metadata": {"name": dict(metadata)[1].decode(), "labels": labels}, "raw": raw}


def _to_protobuf(kind: str, raw: bytes) -> bytes:
    return _PROTOBUF + _field(1, _field(1, b"v1") + _field(2, kind.encode())) + _field(2, raw)


def _merge(old: Any, new: Any) -> Any:
    """JSON merge patch."""
    if not isinstance(new, dict) or not isinstance(old, dict):
        return new
    merged = {key: _merge(old.get(key), value) for key, value in new.items() if value is not None}
    return {**{key: value for key, value in old.items() if key not in new}, **merged}


def _discovery(path: str) -> Object | None:
    groups = sorted(KINDS)
    if path == "/version":
        return {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        entries = []
        for group in (g for g in groups if "/" in g):
            entry = {"groupVersion": group, "version": group.split("/")[1]}
            entries.append({"name": group.split("/")[0], "versions": [entry], "preferredVersion": entry})
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": entries}
    version = path.removeprefix("/apis/") if path.startswith("/apis/") else path.removeprefix("/api/")
    if version in KINDS:
        resources = [
            {"name": plural, "singularName": kind.lower(), "namespaced": namespaced, "kind": kind,
             "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"]}
            for kind, plural, namespaced in KINDS[version]
        ]  # fmt: skip
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": version,
            "resources": resources,
        }
    return None


def _open_api(path: str) -> Object | None:
    """That the server itself checks every field, so that helm needn't, which it can't be told before a hook."""
    if path == "/openapi/v3":
        places = {version: f"{'apis' if '/' in version else 'api'}/{version}" for version in KINDS}
        return {"paths": {place: {"serverRelativeURL": f"/openapi/v3/{place}"} for place in places.values()}}
    version = path.removeprefix("/openapi/v3/").partition("/")[2]
    if not path.startswith("/openapi/v3/") or version not in KINDS:
        return None
    group = version.rpartition("/")[0]
    paths = {}
    for kind, plural, _ in KINDS[version]:
        known = {"group": group, "version": version.rpartition("/")[2], "kind": kind}
        check = {"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}
        paths[f"/{plural}/{{name}}"] = {
            "patch": {"parameters": [check], "responses": {}, "x-kubernetes-group-version-kind": known}
        }
    return {"openapi": "3.0.0", "info": {"title": "fake", "version": "1"}, "paths": paths}


class _Handler(BaseHTTPRequestHandler):
    api: FakeApi
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet: otherwise each answer waits 40 ms for an acknowledgment
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, code: int, body: Object) -> None:
        data, form = b"", "application/vnd.kubernetes.protobuf"
        if "raw" in body:
            data = _to_protobuf("Secret", body["raw"])
        elif any("raw" in o for o in body.get("items", [])):
            data = _to_protobuf("SecretList", b"".join(_field(2, o["raw"]) for o in body["items"]))
        else:
            data, form = json.dumps(body).encode(), "application/json"
        self.send_response(code)
        self.send_header("Content-Type", form)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _missing(self, path: str) -> None:
        status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": "NotFound",
            "code": 404,
        }
        self._answer(404, {**status, "message": f"{path} not found", "details": {}})

    def _body(self) -> Any:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if raw.startswith(_PROTOBUF):
            return _from_protobuf(raw) if "protobuf" in (self.headers.get("Content-Type") or "") else {}
        return yaml.load(raw, yaml.CSafeLoader) if raw else {}

    def do_GET(self) -> None:
        url = urlparse(self.path)
        if found := _discovery(url.path) or _open_api(url.path):
            return self._answer(200, found)
        if found := self.api.objects.get(url.path):
            return self._answer(200, found)
        if {"watch=true", "watch=1"} & set(url.query.split("&")):
            if (
                "sendInitialEvents=true" in url.query
            ):  # a client that is refused this lists first, and then watches
                status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid"}
                return self._answer(422, {**status, "code": 422, "message": "sendInitialEvents is forbidden"})
            return self._watch(url.path)
        plural = url.path.rpartition("/")[2]
        for version, kinds in KINDS.items():
            for kind, name, _ in kinds:
                if name == plural:
                    wanted = parse_qs(url.query).get("labelSelector", [""])[0]
                    terms = [term.split("=", 1) for term in wanted.split(",") if "=" in term]
                    items = [
                        o
                        for path, o in sorted(self.api.objects.items())
                        if path.rpartition("/")[0] == url.path
                        and all((o["metadata"].get("labels") or {}).get(k) == v for k, v in terms)
                    ]
                    return self._answer(
                        200,
                        {
                            "kind": f"{kind}List",
                            "apiVersion": version,
                            "metadata": {"resourceVersion": "1"},
                            "items": items,
                        },
                    )
        return self._missing(url.path)

    def _watch(self, folder: str) -> None:
        """Changes of a collection's objects from now on, until the client has seen enough."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.flush()
        self.close_connection = True
        seen = len(self.api.writes)
        while True:
            with self.api.changed:
                while len(self.api.writes) <= seen and not self.api.is_over:
                    self.api.changed.wait()
                news, seen = self.api.writes[seen:], len(self.api.writes)
            if self.api.is_over:
                return
            for verb, path in news:
                if path.rpartition("/")[0] == folder:
                    kind = {"create": "ADDED", "delete": "DELETED"}.get(verb, "MODIFIED")
                    o = self.api.removed[path] if verb == "delete" else self.api.objects[path]
                    try:  # past the buffer, which would be written once more to a client that has gone
                        self.connection.sendall(json.dumps({"type": kind, "object": o}).encode() + b"\n")
                    except OSError:
                        return

    def _store(self, path: str, o: Object, verb: str, dry: bool) -> None:
        o["metadata"].setdefault("uid", path)
        if o.get("kind") == "Job" and path not in self.api.objects:
            o["status"] = {"conditions": [{"type": self.api.job_ends, "status": "True"}]}
        o["metadata"]["resourceVersion"] = str(len(self.api.writes) + 1)
        if not dry:
            self.api.objects[path] = o
            self.api.wrote(verb, path)

    def do_POST(self) -> None:
        url, o = urlparse(self.path), self._body()
        path = f"{url.path}/{o['metadata']['name']}"
        if path in self.api.objects:
            status = {"kind": "Status", "status": "Failure", "reason": "AlreadyExists", "code": 409}
            return self._answer(409, {**status, "message": f"{path} already exists"})
        self._store(path, o, "create", "dryRun" in url.query)
        return self._answer(201, o)

    def do_PUT(self) -> None:
        url, o = urlparse(self.path), self._body()
        self._store(url.path, o, "update", "dryRun" in url.query)
        self._answer(200, o)

    def do_PATCH(self) -> None:
        url, patch = urlparse(self.path), self._body()
        apply = "apply-patch" in (self.headers.get("Content-Type") or "")
        old = self.api.objects.get(url.path)
        if old is None and not apply:
            return self._missing(url.path)
        o = patch if apply else _merge(old, patch)
        self._store(url.path, o, "apply" if apply else "patch", "dryRun" in url.query)
        return self._answer(200, o)

    def do_DELETE(self) -> None:
        path = urlparse(self.path).path
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if (gone := self.api.objects.pop(path, None)) is None:
            return self._missing(path)
        self.api.removed[path] = gone
        self.api.wrote("delete", path)
        return self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})


@contextmanager
def running(folder: Path) -> Iterator[tuple[FakeApi, Path]]:
    """A server on a free port of the loopback interface, and a kubeconfig that leads to it."""
    api = FakeApi()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "fake", "user": {}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "current-context": "fake",
    }
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config), encoding="utf-8")
    try:
        yield api, kubeconfig
    finally:
        api.end()
        server.shutdown()
        server.server_close()
