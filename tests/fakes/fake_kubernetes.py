"""As much of a Kubernetes API server as runs need: objects over real HTTP, RayJobs checked against KubeRay's schema."""

import contextlib
import itertools
import json
import re
import uuid

import crd_schema
from exec_stream import run_over, say_over
from forward_stream import forward_over
from programmable_server import Answer, Asked, ProgrammableServer

_COLLECTIONS = {
    "rayjobs": ("ray.io/v1", "RayJob"),
    "rayclusters": ("ray.io/v1", "RayCluster"),
    "workloads": ("kueue.x-k8s.io/v1beta2", "Workload"),
    "configmaps": ("v1", "ConfigMap"),
    "pods": ("v1", "Pod"),
    "persistentvolumeclaims": ("v1", "PersistentVolumeClaim"),
    "events": ("v1", "Event"),
    "services": ("v1", "Service"),
    "secrets": ("v1", "Secret"),
}
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/(?P<version>[^/]+))/namespaces/(?P<namespace>[^/]+)/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?P<sub>/log|/status|/exec|/portforward)?$"
)


def status_object(code, reason, message):
    return Answer(
        code,
        {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
        },
    )


class FakeKubernetes(ProgrammableServer):
    def __init__(self, namespace="training", token="right"):
        self.namespace, self.token = namespace, token
        self.objects = {plural: {} for plural in _COLLECTIONS}
        self.logs = {}
        self.denied = set()
        """(verb, resource) that the user has no right to."""
        self.has_kuberay = True
        self.page_size = None
        self.status_of_new_pods = {
            "phase": "Running",
            "containerStatuses": [{"name": "files", "ready": True}],
        }
        """What a kubelet makes of a pod that is created."""
        self.commands = []
        """What was run in pods, as (pod, words)."""
        self.answers = {}
        """Module -> what it prints for its arguments, in the place of a process of its own."""
        self.cut_off_after_bytes = None
        """Of the input of the next command in a pod."""
        self.listening = {}
        """(pod, port) -> port of this machine where what listens there is."""
        self.forwarded = []
        """Connections to pods' ports that are open, as sockets."""
        self.on_watch = []
        """Answers to the next watches, instead of a watch."""
        self._versions = itertools.count(1)
        self._changes = []
        if crd_schema.CRD.exists():
            crd_schema.strict_schema()  # seconds, the first time: not while a client waits
        super().__init__()

    def kubeconfig(self, folder, *, token=None, server=None, user=None):
        path = folder / "kubeconfig"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "here",
                    "contexts": [
                        {
                            "name": "here",
                            "context": {"cluster": "c", "user": "u", "namespace": self.namespace},
                        }
                    ],
                    "clusters": [{"name": "c", "cluster": {"server": server or self.url}}],
                    "users": [{"name": "u", "user": user or {"token": token or self.token}}],
                }
            )
        )
        return path

    # -- what a test does to the cluster -----------------------------------------------------------------------

    def put(self, plural, body):
        """Create or replace an object, as a controller would."""
        with self.lock:
            name = body["metadata"]["name"]
            kind = "MODIFIED" if name in self.objects[plural] else "ADDED"
            body["metadata"].setdefault("uid", str(uuid.uuid4()))
            self._store(plural, body, kind)

    def set_status(self, name, **status):
        """A RayJob's status, as KubeRay would."""
        with self.lock:
            body = json.loads(json.dumps(self.objects["rayjobs"][name]))
            body["status"] = {**body.get("status", {}), **status}
            self._store("rayjobs", body, "MODIFIED")

    def only(self, plural):
        [found] = self.objects[plural].values()
        return found

    # -- routes ------------------------------------------------------------------------------------------------

    def route(self, asked: Asked) -> Answer:
        if (
            self.token
            and asked.path != "/version/"
            and asked.headers.get("authorization") != f"Bearer {self.token}"
        ):
            return status_object(401, "Unauthorized", "Unauthorized")
        fixed = {
            "/version/": {"major": "1", "minor": "34", "gitVersion": "v1.34.1"},
            "/version": {"gitVersion": "v1.34.1"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/api/v1": _resources("v1", ["configmaps:ConfigMap", "pods:Pod"]),
            "/apis": {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [
                    {
                        "name": "ray.io",
                        "versions": [{"groupVersion": "ray.io/v1", "version": "v1"}],
                        "preferredVersion": {"groupVersion": "ray.io/v1", "version": "v1"},
                    }
                ],
            },
        }
        if asked.path in fixed:
            return Answer(body=fixed[asked.path])
        if asked.path == "/apis/ray.io/v1" and self.has_kuberay:
            return Answer(body=_resources("ray.io/v1", ["rayjobs:RayJob", "rayclusters:RayCluster"]))
        if asked.path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews":
            wanted = asked.json["spec"]["resourceAttributes"]
            resource = wanted["resource"] + (f"/{wanted['subresource']}" if wanted.get("subresource") else "")
            return Answer(
                201, {**asked.json, "status": {"allowed": (wanted["verb"], resource) not in self.denied}}
            )
        match = _PATH.fullmatch(asked.path)
        if match and match["sub"] == "/exec":
            return self._exec(match["name"], asked)
        if match and match["sub"] == "/portforward":
            return self._portforward(match["name"], asked)
        if not match or match["plural"] not in _COLLECTIONS:
            return Answer(404, b"404 page not found\n", {"Content-Type": "text/plain"})
        if match["plural"].startswith("ray") and not self.has_kuberay:
            return Answer(404, b"404 page not found\n", {"Content-Type": "text/plain"})
        if match["namespace"] != self.namespace and asked.method == "POST":
            return status_object(404, "NotFound", f'namespaces "{match["namespace"]}" not found')
        with self.lock:
            return self._object(asked, match)

    def _object(self, asked, match):
        plural, name = match["plural"], match["name"]
        verb = {"GET": "get" if name else "list", "POST": "create", "PATCH": "patch", "DELETE": "delete"}[
            asked.method
        ]
        resource = plural + (match["sub"] or "")
        if (verb, resource) in self.denied:
            return status_object(
                403, "Forbidden", f'{plural} is forbidden: User "u" cannot {verb} resource "{plural}"'
            )
        held = self.objects[plural]
        if match["sub"] == "/log":
            return self._log(name, asked)
        if verb == "create":
            return self._create(plural, asked)
        if verb == "list":
            return (
                self._watch(plural, asked)
                if asked.query.get("watch") in ("true", "True", "1")
                else self._list(plural, asked)
            )
        if name not in held:
            return status_object(404, "NotFound", f'{plural}.{(match["group"] or "")} "{name}" not found')
        if verb == "patch":
            assert asked.headers["content-type"] == "application/merge-patch+json", asked.headers
            body = _merge(held[name], asked.json)
            if error := self._invalid(plural, body):
                return error
            self._store(plural, body, "MODIFIED")
        if verb == "delete":
            gone = held.pop(name)
            self._changes.append((next(self._versions), plural, "DELETED", gone))
            self._collect_garbage(gone["metadata"]["uid"])
            return Answer(body={"kind": "Status", "apiVersion": "v1", "status": "Success"})
        return Answer(body=held[name])

    def _create(self, plural, asked):
        body = asked.json
        name = body["metadata"]["name"]
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > 63:
            return status_object(422, "Invalid", f'metadata.name: Invalid value: "{name}"')
        if error := self._invalid(plural, body):
            return error
        if len(asked.body) > 1_100_000:
            return status_object(422, "Invalid", "Too long: must have at most 1048576 bytes")
        if name in self.objects[plural]:
            return status_object(409, "AlreadyExists", f'{plural} "{name}" already exists')
        body["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": "2026-01-02T03:04:05Z"}
        if plural == "pods":
            body["status"] = self.status_of_new_pods
        if asked.query.get("dryRun") != "All":
            self._store(plural, body, "ADDED")
        return Answer(201, body)

    def _invalid(self, plural, body):
        if plural != "rayjobs" or not crd_schema.CRD.exists():
            return None
        errors = crd_schema.rayjob_errors({name: value for name, value in body.items() if name != "status"})
        if errors:
            return status_object(
                400, "BadRequest", f"strict decoding error: unknown field: {'; '.join(errors)}"
            )
        rules = (body["spec"].get("deletionStrategy") or {}).get("deletionRules")
        if rules and body["spec"].get("shutdownAfterJobFinishes"):
            return status_object(
                422, "Invalid", "shutdownAfterJobFinishes and deletionRules are mutually exclusive"
            )
        return None

    def _list(self, plural, asked):
        found = [
            body
            for body in self.objects[plural].values()
            if _selected(body, asked.query.get("labelSelector"))
        ]
        start = int(asked.query.get("continue") or 0)
        size = self.page_size or len(found) or 1
        more = {"continue": str(start + size)} if start + size < len(found) else {}
        version, kind = _COLLECTIONS[plural]
        page = {
            "apiVersion": version,
            "kind": f"{kind}List",
            "metadata": {"resourceVersion": str(next(self._versions)), **more},
            "items": found[start : start + size],
        }
        return Answer(body=page)

    def _watch(self, plural, asked):
        if self.on_watch:
            return self.on_watch.pop(0)
        since = int(asked.query.get("resourceVersion") or 0)
        wanted = (asked.query.get("fieldSelector") or "").removeprefix("metadata.name=")

        def changes():
            seen = since
            while not self.closing.wait(0.01):
                with self.lock:
                    new = [change for change in self._changes if change[0] > seen]
                for number, of, kind, body in new:
                    seen = number
                    if of == plural and body["metadata"]["name"] == wanted:
                        yield json.dumps({"type": kind, "object": body}).encode() + b"\n"

        return Answer(body=changes())

    def _exec(self, pod, asked):
        """A real process in the place of the one in the pod, whose claims are folders of this machine."""
        if ("create", "pods/exec") in self.denied:
            return status_object(
                403, "Forbidden", 'pods "x" is forbidden: User "u" cannot create resource "pods/exec"'
            )
        if pod not in self.objects["pods"]:
            return status_object(404, "NotFound", f'pods "{pod}" not found')
        words = asked.queries["command"]
        self.commands.append((pod, words))
        if words[1:2] == ["-m"] and (answer := self.answers.get(words[2])):
            return Answer(101, body=lambda connection: say_over(connection, answer(words[3:])))
        limit, self.cut_off_after_bytes = self.cut_off_after_bytes, None
        return Answer(101, body=lambda connection: run_over(connection, words, limit))

    def _portforward(self, pod, asked):
        """To what listens on this machine in the place of the pod's."""
        if ("create", "pods/portforward") in self.denied:
            return status_object(
                403, "Forbidden", 'pods "x" is forbidden: User "u" cannot create resource "pods/portforward"'
            )
        if pod not in self.objects["pods"]:
            return status_object(404, "NotFound", f'pods "{pod}" not found')
        port = int(asked.query["ports"])
        here = ("127.0.0.1", self.listening.get((pod, port), 1))
        return Answer(101, body=lambda connection: forward_over(connection, port, here, self.forwarded))

    def _log(self, pod, asked):
        if pod not in self.objects["pods"]:
            return status_object(404, "NotFound", f'pods "{pod}" not found')
        lines = self.logs.setdefault((pod, asked.query["container"]), [])

        def stamped(start):
            return [b"2026-01-01T00:00:00.%09dZ %s\n" % (n, line.encode()) for n, line in enumerate(lines)][
                start:
            ]

        if asked.query.get("follow") not in ("true", "True"):
            return Answer(body=b"".join(stamped(0)), headers={"Content-Type": "text/plain"})

        def grow():
            sent = 0
            while not self.closing.wait(0.01):
                for piece in stamped(sent):
                    sent += 1
                    yield piece
                if (pod, "closed") in self.logs:
                    return

        return Answer(body=grow(), headers={"Content-Type": "text/plain"})

    def _store(self, plural, body, change):
        number = next(self._versions)
        body = json.loads(json.dumps(body))
        body["metadata"]["resourceVersion"] = str(number)
        self.objects[plural][body["metadata"]["name"]] = body
        self._changes.append((number, plural, change, body))

    def _collect_garbage(self, uid):
        for held in self.objects.values():
            for name, body in list(held.items()):
                if any(owner["uid"] == uid for owner in body["metadata"].get("ownerReferences", [])):
                    del held[name]


def _resources(version, names):
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": version,
        "resources": [
            {
                "name": plural,
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": True,
                "verbs": ["create", "delete", "get", "list", "patch", "watch"],
            }
            for plural, kind in (name.split(":") for name in names)
        ],
    }


def _selected(body, selector):
    labels = body["metadata"].get("labels") or {}
    wanted = [part.partition("=") for part in (selector or "").split(",") if part]
    return all(labels.get(key) == value if equals else key in labels for key, equals, value in wanted)


def _merge(old, patch):
    if not isinstance(patch, dict):
        return patch
    made = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            with contextlib.suppress(KeyError):
                del made[name]
        else:
            made[name] = _merge(made.get(name), value)
    return made
