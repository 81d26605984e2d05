"""What an API server says of itself, of a storage claim, and of what a person may do in a namespace. Every function may raise what
``ApiServer`` says.
"""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

from orchestrator.clusters.kubernetes.api import ApiServer
from orchestrator.clusters.kubernetes.rayjobs import GROUP, VERSION
from orchestrator.errors import NotFoundError


def version(server: ApiServer) -> str:
    """The server's version."""
    from kubernetes import client

    get = client.VersionApi(server.client()).get_code
    return str(server.call("get", "version", get).get("gitVersion", ""))


def clock_ahead_seconds(server: ApiServer) -> float:
    """How far the server's clock is ahead of ours, to the second that HTTP tells."""
    from kubernetes import client

    began = time.time()
    answer = server.answer("get", "version", client.VersionApi(server.client()).get_code, read_body=True)
    there = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    return there - (began + time.time()) / 2


def rayjobs_are_served(server: ApiServer) -> bool:
    """Whether the server knows RayJobs in our version."""
    get = server.custom().get_api_resources
    try:
        answer = server.call("get", "API group ray.io/v1", get, GROUP, VERSION)
    except NotFoundError:
        return False
    return any(resource.get("name") == "rayjobs" for resource in answer.get("resources") or [])


def claim_phase(server: ApiServer, name: str) -> str:
    """Phase of a PersistentVolumeClaim, e.g. ``Bound``."""
    get = server.core().read_namespaced_persistent_volume_claim
    claim = server.call("get", "persistentvolumeclaims", get, name, server.namespace)
    return str((claim.get("status") or {}).get("phase") or "Unknown")


def claim_warning(server: ApiServer, name: str) -> str:
    """What Kubernetes said last of why a PersistentVolumeClaim can't be bound; empty where it said nothing."""
    events = server.pages("events", server.core().list_namespaced_event, server.namespace)
    said = [
        event
        for event in events
        if (event.get("type"), (event.get("involvedObject") or {}).get("kind"))
        == ("Warning", "PersistentVolumeClaim")
        and event["involvedObject"].get("name") == name
    ]
    newest = max(said, key=lambda event: event.get("lastTimestamp") or "", default={})
    return str(newest.get("message") or "").strip()


def may(server: ApiServer, verb: str, resource: str, group: str = "") -> bool:
    """Whether we may do something in the namespace. A resource's part is behind a slash, as in ``pods/log``."""
    from kubernetes import client

    name, _, sub = resource.partition("/")
    attributes = {
        "namespace": server.namespace,
        "verb": verb,
        "group": group,
        "resource": name,
        "subresource": sub,
    }
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    ask = client.AuthorizationV1Api(server.client()).create_self_subject_access_review
    answer = server.call("create", "selfsubjectaccessreviews", ask, body)
    return bool((answer.get("status") or {}).get("allowed"))
