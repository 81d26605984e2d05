"""Dashboards that only pods reach: which pod answers for them now, and what signs in."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from orchestrator.clusters.kubernetes.api import ApiServer
from orchestrator.clusters.kubernetes.errors import NoRightError
from orchestrator.clusters.kubernetes.pod_tunnel import PodTunnel
from orchestrator.clusters.kubernetes.pods import Pods
from orchestrator.clusters.kubernetes.request import RUN_LABEL
from orchestrator.clusters.shared.gateway import Dashboard
from orchestrator.clusters.shared.safe_names import label_value
from orchestrator.errors import InfrastructureError, NotFoundError
from orchestrator.spec.addresses import service_of
from orchestrator.spec.profile import ClusterProfile

_RAY_PORT = 8265


def mlflow_dashboard(profile: ClusterProfile, address: str, start: str) -> tuple[Dashboard, str]:
    """MLflow behind a service of the cluster, and how one is signed in there.

    Args:
        profile: of the cluster.
        address: of the service, as pods call it.
        start: what its link shows.

    Raises:
        InfrastructureError: the address is TLS's; or as ``ApiServer``.
    """
    parts = urlsplit(address)
    name, namespace = service_of(address) or ("", "")
    if parts.scheme != "http":
        raise InfrastructureError(
            f"cluster {profile.name}: {address} speaks TLS with a certificate for that name, which a browser here would not"
            f" take; open it with kubectl --namespace {namespace} port-forward service/{name} :{parts.port or 443}"
        )
    server = ApiServer(_in_namespace(profile, namespace))
    values, how = _secret(profile, profile.secrets.mlflow_secret, ("username", "password"))
    authorization = f"Basic {base64.b64encode(':'.join(values).encode()).decode()}" if values else ""
    how = f"signed in as {values[0]}" if values else how
    connect = _through(Pods(server), lambda: _pod_of_service(server, name, parts.port or 80))
    return Dashboard("MLflow", parts.netloc, connect, authorization, start), how


def ray_dashboard(profile: ClusterProfile, run_id: str) -> tuple[Dashboard, str]:
    """That of a run's head, for as long as it lives, and how one is signed in there.

    Raises:
        NotFoundError: no head of the run is there; InfrastructureError: as ``ApiServer``.
    """
    server = ApiServer(profile)
    head = _head(server, run_id)
    secret = profile.secrets.ray_token_secret or head["metadata"]["labels"].get("ray.io/cluster")
    values, how = _secret(profile, secret, ("auth_token",))
    authorization = f"Bearer {values[0]}" if values else ""
    connect = _through(Pods(server), lambda: (_head(server, run_id)["metadata"]["name"], _RAY_PORT))
    return Dashboard(
        "Ray's dashboard", f"127.0.0.1:{_RAY_PORT}", connect, authorization
    ), "signed in" if values else how


def _through(pods: Pods, find: Callable[[], tuple[str, int]]) -> Callable[[], PodTunnel]:
    """Connects to the pod that was found last, and looks for another where that is gone."""
    known: list[tuple[str, int]] = []

    def connect() -> PodTunnel:
        if known:
            try:
                return pods.connect(*known[0])
            except (NotFoundError, InfrastructureError):
                known.clear()
        found = find()
        tunnel = pods.connect(*found)
        known[:] = [found]
        return tunnel

    return connect


def _pod_of_service(server: ApiServer, name: str, port: int) -> tuple[str, int]:
    """A pod that is ready, and the number of its port."""
    get = server.core().read_namespaced_service
    spec = server.call("get", "services", get, name, server.namespace).get("spec") or {}
    selector, ports = spec.get("selector"), spec.get("ports") or []
    target = next((one.get("targetPort") or port for one in ports if one["port"] == port), None)
    if not selector or target is None:
        raise InfrastructureError(
            f"service {name} of namespace {server.namespace} has no pods behind port {port}"
        )
    alive = Pods(server).alive(",".join(f"{key}={value}" for key, value in selector.items()))
    ready = [pod for pod in alive if _is_ready(pod)]
    if not ready:
        raise InfrastructureError(f"no pod of service {name} in namespace {server.namespace} is ready")
    return ready[0]["metadata"]["name"], target if isinstance(target, int) else _named_port(ready[0], target)


def _named_port(pod: dict[str, Any], name: str) -> int:
    ports = (port for container in pod["spec"]["containers"] for port in container.get("ports") or [])
    return next(int(port["containerPort"]) for port in ports if port.get("name") == name)


def _head(server: ApiServer, run_id: str) -> dict[str, Any]:
    """The head's pod of a run's newest Ray cluster."""
    alive = Pods(server).alive(f"{RUN_LABEL}={label_value(run_id)},ray.io/node-type=head")
    if not alive:
        raise NotFoundError(
            f"cluster {server.profile.name}: no head of run {run_id} is there, so Ray shows no dashboard of it; trainwright logs"
            f" {run_id} shows what it printed"
        )
    return max(alive, key=lambda pod: pod["metadata"].get("creationTimestamp") or "")


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)


def _secret(profile: ClusterProfile, name: str | None, keys: tuple[str, ...]) -> tuple[list[str], str]:
    """Values of a Secret; none where there is no such Secret, or the person may not read it, and then what they can do."""
    if not name:
        return [], ""
    try:
        server = ApiServer(profile)
        get = server.core().read_namespaced_secret
        held = server.call("get", "secrets", get, name, server.namespace).get("data") or {}
        return [base64.b64decode(held[key]).decode() for key in keys], ""
    except NoRightError:
        why = "you may not read"
    except NotFoundError:
        why = "there is no"
    except KeyError as error:
        why = f"no key {error} is in"
    return [], f"it asks for a user: {why} Secret {name} of namespace {profile.kubernetes.namespace}"


def _in_namespace(profile: ClusterProfile, namespace: str) -> ClusterProfile:
    options = profile.kubernetes.model_copy(update={"namespace": namespace})
    return profile.model_copy(update={"kubernetes": options})
