from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.child_process import serve
from orchestrator.cli.options import AsJson, ClusterName, print_json, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.spec.profile import ClusterProfile


def ui(
    cluster: ClusterName = "local",
    port: Annotated[int, typer.Option("--port", help="Port; 0: any free one.", min=0, max=65535)] = 5000,
    host: Annotated[
        str, typer.Option("--host", help="Address to serve on. Only this machine can reach the default.")
    ] = "127.0.0.1",
    json: AsJson = False,
) -> None:
    """Serve the MLflow dashboard of the local store, print the address of a cluster's, or forward a port to the one that only
    pods reach (with kubectl).
    """
    import os
    import sys

    from orchestrator.sdk import tracking_uri_of
    from orchestrator.spec.addresses import without_password
    from orchestrator.spec.load import home, load_profile

    profile = load_profile(cluster)
    uri = tracking_uri_of(profile)
    address = without_password(uri).rstrip("/")
    if profile.kind == "kubernetes" and (forwarding := _port_forward(profile, address)):
        port = _free_port(host, port)
        _tell(f"http://{host}:{port}", json=json, note=f"   (forwarded to {address}; Ctrl-C ends it)")
        if profile.secrets.mlflow_secret and not json:
            say(f"it asks for the user and password of {_how_to_read(profile)}")
        sys.stdout.flush()
        sys.exit(4 if serve(forwarding(host, port), os.environ) else 0)
    if uri.startswith("http"):
        _tell(address, json=json)
        return
    from orchestrator.telemetry.mlflow_run import connect

    port = _free_port(host, port)
    os.umask(0o077)  # the server's files, too, are for their user alone
    home().mkdir(parents=True, exist_ok=True)
    connect(without_password(uri))  # makes its tables, alone
    _tell(f"http://{host}:{port}", json=json, note="   (Ctrl-C ends it)")
    sys.stdout.flush()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        host,
        "--port",
        str(port),
    ]
    command += ["--workers", "1", "--default-artifact-root", (home() / "mlartifacts").as_uri()]
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,  # a command line can be read by everybody on the machine
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    sys.exit(serve(command, environment))


def _free_port(host: str, port: int) -> int:
    """The port, or any free one for 0. Raises InfrastructureError where it is taken."""
    import socket

    from orchestrator.errors import InfrastructureError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InfrastructureError(
                f"{host}:{port} can't be served on: {error.strerror}; give another --port"
            ) from None
        return int(probe.getsockname()[1])


def _port_forward(profile: ClusterProfile, address: str) -> Callable[[str, int], list[str]] | None:
    """The command that forwards a local port to a service of the cluster; None where the address is no name inside it.

    Raises InfrastructureError where kubectl is not installed.
    """
    import shutil
    from urllib.parse import urlsplit

    from orchestrator.errors import InfrastructureError

    parts = urlsplit(address)
    service, _, rest = (parts.hostname or "").partition(".")
    namespace, _, domain = rest.partition(".")
    if domain not in ("svc", "svc.cluster.local"):
        return None
    if (kubectl := shutil.which("kubectl")) is None:
        raise InfrastructureError(
            f"cluster {profile.name}: only pods reach {address}, and kubectl, which would forward a port to it, is not"
            " installed here"
        )
    context = ["--context", profile.kubernetes.context] if profile.kubernetes.context else []
    far = parts.port or (443 if parts.scheme == "https" else 80)
    begin = [kubectl, *context, "--namespace", namespace, "port-forward", f"service/{service}"]
    return lambda host, port: [*begin, "--address", host, f"{port}:{far}"]


def _how_to_read(profile: ClusterProfile) -> str:
    values = "{{.data.username | base64decode}} {{.data.password | base64decode}}"
    return f"kubectl get secret {profile.secrets.mlflow_secret} -n {profile.kubernetes.namespace} -o go-template='{values}'"


def _tell(server: str, *, json: bool, note: str = "") -> None:
    url = f"{server}/#/experiments?workflowType=machine_learning"
    if json:
        print_json({"url": url})
    else:
        say(f"MLflow dashboard: {url}{note}")
