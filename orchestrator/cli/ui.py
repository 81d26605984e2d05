from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.cli.child_process import serve
from orchestrator.cli.options import AsJson, ClusterName, print_json, say


def ui(
    cluster: ClusterName = "local",
    port: Annotated[int, typer.Option("--port", help="Port; 0: any free one.", min=0, max=65535)] = 5000,
    host: Annotated[
        str, typer.Option("--host", help="Address to serve on. Only this machine can reach the default.")
    ] = "127.0.0.1",
    json: AsJson = False,
) -> None:
    """Serve the MLflow dashboard of the local store, or print the address of a cluster's."""
    import os
    import socket
    import sys

    from orchestrator.errors import InfrastructureError
    from orchestrator.sdk import tracking_uri_of
    from orchestrator.spec.addresses import without_password
    from orchestrator.spec.load import home, load_profile

    uri = tracking_uri_of(load_profile(cluster))
    if uri.startswith("http"):
        _tell(without_password(uri).rstrip("/"), json=json)
        return
    from orchestrator.telemetry.mlflow_run import connect

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InfrastructureError(
                f"{host}:{port} can't be served on: {error.strerror}; give another --port"
            ) from None
        port = probe.getsockname()[1]
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


def _tell(server: str, *, json: bool, note: str = "") -> None:
    url = f"{server}/#/experiments?workflowType=machine_learning"
    if json:
        print_json({"url": url})
    else:
        say(f"MLflow dashboard: {url}{note}")
