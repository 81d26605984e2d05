from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.child_process import serve
from orchestrator.cli.options import AsJson, ClusterName, complete_run, print_json, say

if TYPE_CHECKING:
    from orchestrator.spec.profile import ClusterProfile

MLFLOW, RAY = "MLflow dashboard", "Ray dashboard"
_START = "/#/experiments?workflowType=machine_learning"
"""Where MLflow opens."""


def ui(
    cluster: ClusterName = "local",
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            help="Ray's dashboard of this run instead, while its head lives.",
            metavar="RUN",
            autocompletion=complete_run,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", help="Port; 0: any free one. Default: 5000, and for a cluster's any.", min=0, max=65535
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to serve on. Only this machine can reach the default.")
    ] = "127.0.0.1",
    json: AsJson = False,
) -> None:
    """Serve the MLflow dashboard of the local store, or print the address of a cluster's. One that only pods reach is opened for
    a browser on this machine, signed in, until Ctrl-C.
    """
    from orchestrator.errors import SpecError
    from orchestrator.sdk import tracking_uri_of
    from orchestrator.spec.addresses import service_of, without_password
    from orchestrator.spec.load import load_profile

    profile = load_profile(cluster)
    uri = tracking_uri_of(profile)
    address = without_password(uri).rstrip("/")
    if profile.kind == "kubernetes" and (ray or (not profile.mlflow_ui and service_of(address))):
        if host != "127.0.0.1":
            raise SpecError(
                f"--host {host}: what only pods reach is opened for this machine alone; leave it out, or give the cluster an"
                " ingress and its profile the address (mlflow_ui)"
            )
        _open(profile, address, ray, port or 0, json=json)
    elif ray and profile.kind == "ray":
        _tell(RAY, str(profile.address), json=json)
    elif ray:
        raise SpecError(
            f"--ray {ray}: Ray shows no dashboard of a local run; trainwright logs {ray} shows what it printed"
        )
    elif profile.mlflow_ui or uri.startswith("http"):
        _tell(MLFLOW, (profile.mlflow_ui or address).rstrip("/") + start_page(profile), json=json)
    else:
        _serve(without_password(uri), uri, host, 5000 if port is None else port, json=json)


def start_page(profile: ClusterProfile) -> str:
    """Where MLflow opens: in the workspace that the cluster's runs go to, where its profile names one. Pure."""
    workspace = profile.environment.get("MLFLOW_WORKSPACE")
    return f"{_START}&workspace={workspace}" if workspace else _START


def _open(profile: ClusterProfile, address: str, run: str | None, port: int, *, json: bool) -> None:
    """Let a browser through to a dashboard that only pods reach, until this process is told to end."""
    from orchestrator.cli.child_process import until_told_to_end
    from orchestrator.clusters.kubernetes.dashboards import mlflow_dashboard, ray_dashboard
    from orchestrator.clusters.shared.gateway import Gateway

    dashboard, how = (
        ray_dashboard(profile, run) if run else mlflow_dashboard(profile, address, start_page(profile))
    )
    dashboard.connect().close()  # what is missing is said now, not by a page
    with until_told_to_end() as wait, Gateway(dashboard, port) as gateway:
        notes = "; ".join(filter(None, ("the link works once", how, "Ctrl-C ends it")))
        _tell(RAY if run else MLFLOW, gateway.link, json=json, note=f"   ({notes})")
        sys.stdout.flush()
        wait()


def _serve(store: str, uri: str, host: str, port: int, *, json: bool) -> None:
    """MLflow's own server over the local store, until this process is told to end."""
    import os

    from orchestrator.spec.load import home
    from orchestrator.telemetry.mlflow_run import connect

    port = _free_port(host, port)
    os.umask(0o077)  # the server's files, too, are for their user alone
    home().mkdir(parents=True, exist_ok=True)
    connect(store)  # makes its tables, alone
    _tell(MLFLOW, f"http://{host}:{port}{_START}", json=json, note="   (Ctrl-C ends it)")
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


def _tell(what: str, url: str, *, json: bool, note: str = "") -> None:
    if json:
        print_json({"url": url})
    else:
        say(f"{what}: {url}{note}")
