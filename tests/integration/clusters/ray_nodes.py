"""Real Ray nodes, started as a person starts them: ``ray start``, token authentication on, ports that are free; each in a
network of its own where this system lets us make one, else all on the loopback.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import namespaces

from orchestrator.clusters.ray.api import RayClient

BIN = Path(sys.executable).parent
_HEAD_STARTS = 3


class RayNodes:
    def __init__(self) -> None:
        # short: Ray puts sockets below it, and their paths may have 107 characters
        self.folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
        self.token = secrets.token_hex(32)
        self.gcs_port, self.dashboard_port = _free_ports(2)
        self.network = namespaces.Network(self.folder) if namespaces.can_be_made(self.folder) else None
        self.head = "127.0.0.1"
        self.processes: list[subprocess.Popen] = []
        self._heads = 0

    @property
    def address(self) -> str:
        return f"http://{self.head}:{self.dashboard_port}"

    def profile(self, most: int) -> dict:
        """What a profile file says of at most so many of these nodes; writes the token and makes the storage."""
        token, storage = self.folder / "token", self.folder / "storage"
        token.write_text(self.token)
        token.chmod(0o600)
        storage.mkdir()
        return {
            "name": "pool",
            "kind": "ray",
            "address": self.address,
            "storage": str(storage),
            "secrets": {"ray_token_file": str(token)},
            "node_groups": [{"name": "node", "cpus": 2, "memory": "4GB", "max": most}],
        }

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return {
            **kept,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def start_head(self, *options: str) -> None:
        self.head = self._address("head")
        self._start_head(*options)

    def start_head_again(self, *options: str) -> None:
        """At the address that it had. It knows nothing of the one before, as without a Redis no head does."""
        self._start_head(*options)

    def _start_head(self, *options: str) -> None:
        """Ray gives a head's processes seconds to come up, which on a busy machine they may not: then again."""
        for _ in range(_HEAD_STARTS):
            self.head_process = self._begin_head(*options)
            if self._is_up(self.head_process):
                return
            end_node(self.head_process)
        raise AssertionError(self.log("head"))

    def _begin_head(self, *options: str) -> subprocess.Popen:
        self._heads += 1
        return self._start(
            "head",
            self.head,
            "--head",
            f"--port={self.gcs_port}",
            f"--dashboard-host={self.head}",
            f"--dashboard-port={self.dashboard_port}",
            f"--temp-dir={self.folder}/head-{self._heads}",
            *options,
        )

    def _is_up(self, head: subprocess.Popen) -> bool:
        deadline = time.monotonic() + 120
        while head.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.address}/api/gcs_healthz", timeout=5)
                if "Ray runtime started" in self.log("head"):
                    return True
            time.sleep(0.2)
        return False

    def start_node(self, name: str, *options: str) -> subprocess.Popen:
        return self._start(name, self._address(name), f"--address={self.head}:{self.gcs_port}", *options)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-4000:]

    def _address(self, name: str) -> str:
        return self.network.add(name) if self.network else "127.0.0.1"

    def _start(self, name: str, address: str, *options: str) -> subprocess.Popen:
        command = [
            str(BIN / "ray"),
            "start",
            "--block",
            f"--node-ip-address={address}",
            "--object-store-memory=120000000",
            "--dashboard-agent-listen-port=0",
            "--disable-usage-stats",
            # its own: in a shared one a node that joins unpacks a job's working directory anew, under the
            # feet of those that run in it on the other
            f"--temp-dir={self.folder}/{name}",
            *options,
        ]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                self.network.command(name, command) if self.network else command,
                env=self.environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def close(self) -> None:
        for process in reversed(self.processes):
            end_node(process)
        if self.network:
            self.network.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def end_node(process: subprocess.Popen) -> None:
    """Ends one ``ray start --block`` and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def alive(client):
    status, text = client._request("GET", "/api/v0/nodes")
    found = json.loads(text)["data"]["result"]["result"] if status == 200 else []
    return [node for node in found if node["state"] == "ALIVE"]


def wait(condition, what, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come about in {seconds}s"
        time.sleep(0.2)


def workers_of(profile, run_id):
    """Ray Train's workers of a run, from Ray's own state API."""
    client = RayClient(profile)
    job = client.info(run_id)["job_id"]
    return [
        actor
        for actor in _actors(client)
        if actor["job_id"] == job and "RayTrainWorker" in actor["class_name"]
    ]


def kept_from_idling(client):
    """Classes of actors that live on other nodes than the head's, where an autoscaler then lets none go."""
    others = {node["node_id"] for node in alive(client) if not node["is_head_node"]}
    return [
        actor["class_name"]
        for actor in _actors(client)
        if actor["state"] == "ALIVE" and actor["node_id"] in others
    ]


def _actors(client):
    _, text = client._request("GET", "/api/v0/actors?limit=1000&detail=true")
    return json.loads(text)["data"]["result"]["result"]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
