"""The scripts that the chart runs in MLflow's image, and the server itself with the arguments of the Deployment."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from configparser import ConfigParser
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from chartkit.helm import CHART, HelmError, find, render
from fake_kubernetes import FakeKubernetes

from orchestrator.clusters.doctor.checks import check_mlflow
from orchestrator.clusters.kubernetes.dashboards import mlflow_dashboard
from orchestrator.clusters.shared.gateway import Gateway
from orchestrator.spec.profile import ClusterProfile

FILES = CHART / "files"


def module(name: str):
    """A script of the chart as a module."""
    spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FILES / f"{script}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def databases(tmp_path):
    folder = tmp_path / "mlflow"
    folder.mkdir()
    for name in ("mlflow", "auth"):
        with closing(sqlite3.connect(folder / f"{name}.db")) as database:
            database.execute("create table runs (id integer)")
            database.executemany("insert into runs values (?)", [(i,) for i in range(1000)])
            database.commit()
    return folder


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return database.execute("select count(*) from runs").fetchone()[0]


def test_a_backup_holds_what_is_committed_while_a_writer_is_at_work(databases, tmp_path):
    with closing(sqlite3.connect(databases / "mlflow.db")) as writer:
        writer.execute("pragma journal_mode=wal")
        writer.execute("insert into runs values (-1)")
        done = run("mlflow_backup", str(databases), str(tmp_path / "backups"), "3")
        writer.rollback()
    assert done.returncode == 0, done.stderr
    copies = sorted((tmp_path / "backups").iterdir())
    assert [path.name.split("-")[0] for path in copies] == ["auth", "mlflow"]
    assert all(count(path) == 1000 for path in copies)


def test_the_newest_backups_are_kept(databases, tmp_path):
    backups = tmp_path / "backups"
    backups.mkdir()
    for day in range(1, 6):
        for name in ("mlflow", "auth"):
            (backups / f"{name}-2020010{day}T000000.db").write_bytes(b"")
    assert run("mlflow_backup", str(databases), str(backups), "2").returncode == 0
    left = sorted(path.name for path in backups.glob("mlflow-*"))
    assert len(left) == 2
    assert left[0] == "mlflow-20200105T000000.db"


def test_a_backup_of_nothing_fails(tmp_path):
    done = run("mlflow_backup", str(tmp_path), str(tmp_path / "backups"), "2")
    assert done.returncode != 0
    assert "no database in" in done.stderr


def test_a_damaged_database_leaves_no_backup(databases, tmp_path):
    (databases / "auth.db").write_bytes(b"not a database at all" * 100)
    done = run("mlflow_backup", str(databases), str(tmp_path / "backups"), "2")
    assert done.returncode != 0
    assert not list((tmp_path / "backups").glob("*.db"))


@pytest.mark.parametrize("text", [None, "", "\n"])
def test_a_missing_secret_is_named(tmp_path, monkeypatch, text):
    start = module("mlflow_start")
    monkeypatch.setattr(start, "SECRETS", tmp_path)
    (tmp_path / "mlflow").mkdir()
    if text is not None:
        (tmp_path / "mlflow" / "password").write_text(text)
    with pytest.raises(SystemExit, match=r"the Secret mounted at .*/mlflow needs the key 'password'"):
        start.read_secret("mlflow", "password")


def test_the_auth_config_is_private_and_survives_percent_signs(tmp_path, monkeypatch):
    """Percent signs stand in database URIs for other characters, and for references in MLflow's parser."""
    start = module("mlflow_start")
    monkeypatch.setattr(start, "RUNTIME", tmp_path)
    uri = "postgresql://mlflow:p%40ss%25word@db/mlflow"
    path = start.write_auth_config(uri, "EDIT")
    assert path.stat().st_mode & 0o777 == 0o600
    config = ConfigParser()
    config.read(path)
    assert config["mlflow"]["database_uri"] == uri
    assert config["mlflow"]["default_permission"] == "EDIT"
    assert "password" not in dict(config["mlflow"])


class Answers(BaseHTTPRequestHandler):
    """An MLflow server that answers with the statuses of the test."""

    health, stranger, friend = 200, 401, 200

    def do_GET(self):
        known = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"jobs:pw").decode()
        status = self.health if self.path == "/health" else self.friend if known else self.stranger
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


CHECKS = {
    "good": ({}, "yes", 0, "accepts the jobs user"),
    "open": ({"stranger": 200}, "no", 0, "open to all"),
    "down": ({"health": 503}, "yes", 1, "/health answered 503, expected 200"),
    "lets strangers in": (
        {"stranger": 200},
        "yes",
        1,
        "without a password the server answered 200, expected 401",
    ),
    "refuses the jobs user": ({"friend": 401}, "yes", 1, "the jobs' user 'jobs' was answered 401"),
}


@pytest.mark.parametrize("name", CHECKS)
def test_helm_test_says_what_is_wrong(name, tmp_path):
    statuses, auth, code, message = CHECKS[name]
    (tmp_path / "username").write_text("jobs\n")
    (tmp_path / "password").write_text("pw\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Server", (Answers,), statuses))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = run("check_mlflow", f"http://127.0.0.1:{server.server_port}", auth, str(tmp_path))
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == code
    assert message in done.stdout + done.stderr


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """MLflow as the Deployment starts it, with the pod's folders moved to a temporary one."""

    def __init__(self, folder: Path, database: str = "", teams: Sequence[str] = ()) -> None:
        self.folder, self.port, self.database, self.teams = folder, free_port(), database, teams
        self.passwords = {"admin": "admin-password-1", "jobs": "jobs-password-11"}
        self.passwords |= {team: f"{team}-password-1" for team in teams}
        self.workspace = ""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        values: dict[str, Any] = {"databaseSecret": "database"} if self.database else {}
        values |= {"teams": [{"name": team, "secret": f"{team}-mlflow"} for team in self.teams]}
        deployment = find(render({"mlflow": values}), "Deployment", "train-mlflow")
        container = deployment["spec"]["template"]["spec"]["containers"][0]
        moves = {
            "/mlflow/": f"{self.folder}/mlflow/",
            "/tmp/": f"{self.folder}/tmp/",
            "0.0.0.0": "127.0.0.1",
            "$(POD_IP)": "127.0.0.1",
            "--port=5000": f"--port={self.port}",
            "--workers=2": "--workers=1",
        }

        def moved(text: str) -> str:
            return re.sub("|".join(map(re.escape, moves)), lambda match: moves[match[0]], text)

        for name in ("mlflow", "tmp"):
            (self.folder / name).mkdir(exist_ok=True)
        for secret, keys in {
            "mlflow": {
                "username": "admin",
                "password": self.passwords["admin"],
                "flask-secret-key": "f" * 64,
            },
            "jobs": {"username": "jobs", "password": self.passwords["jobs"]},
            **({"database": {"uri": self.database}} if self.database else {}),
            **{f"teams/{team}": {"username": team, "password": self.passwords[team]} for team in self.teams},
        }.items():
            (self.folder / "secrets" / secret).mkdir(parents=True, exist_ok=True)
            for key, value in keys.items():
                (self.folder / "secrets" / secret / key).write_text(value)
        environment = {v["name"]: moved(v["value"]) for v in container["env"] if "value" in v}
        environment |= {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": f"{self.folder}/tmp",
            "TRAINWRIGHT_SECRETS": f"{self.folder}/secrets",
            "TRAINWRIGHT_RUNTIME": f"{self.folder}/tmp",
        }
        command = [sys.executable, str(FILES / "mlflow_start.py"), *map(moved, container["args"])]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdout=log,
                stderr=log,
                cwd=self.folder / "tmp",
                start_new_session=True,
            )
        deadline = time.monotonic() + 240
        while self.get("/health")[0] != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the server did not start:\n{(self.folder / 'log').read_text()[-3000:]}")
            time.sleep(1)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(20)

    def get(
        self, path: str, user: str = "", password: str = "", host: str = "", body=None
    ) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        if user:
            pair = f"{user}:{password or self.passwords[user]}".encode()
            request.add_header("Authorization", "Basic " + base64.b64encode(pair).decode())
        if host:
            request.add_header("Host", host)
        if self.workspace:
            request.add_header("X-MLFLOW-WORKSPACE", self.workspace)
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError as error:
            return 0, str(error)


@pytest.fixture
def postgresql():
    """URI of an empty database on a PostgreSQL server of its own."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL server is installed")
    folder, port = Path(tempfile.mkdtemp(dir="/tmp", prefix="tw-pg-")), free_port()
    user: dict[str, Any] = {}
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        shutil.chown(folder, "postgres", "postgres")
        user = {"user": "postgres", "group": "postgres", "extra_groups": []}
    (folder / "password").write_text("p%ss word")
    (folder / "password").chmod(0o644)
    arguments = ["-D", str(folder / "data"), "-U", "mlflow", "-A", "scram-sha-256"]
    made = [str(found[-1]), *arguments, f"--pwfile={folder / 'password'}"]
    subprocess.run(made, check=True, cwd=folder, capture_output=True, **user)
    served = [str(found[-1].with_name("postgres")), "-D", str(folder / "data"), "-p", str(port)]
    served += ["-c", "listen_addresses=127.0.0.1", "-k", str(folder)]
    server = subprocess.Popen(served, cwd=folder, stderr=subprocess.DEVNULL, **user)
    try:
        ready = [str(found[-1].with_name("pg_isready")), "-h", "127.0.0.1", "-p", str(port), "-t", "60"]
        deadline = time.monotonic() + 60
        while subprocess.run(ready, capture_output=True).returncode:
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        yield f"postgresql://mlflow:p%25ss%20word@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)
        shutil.rmtree(folder)


def as_the_jobs_user(monkeypatch, server, user):
    """As a pod's environment does."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", server.passwords[user])


@pytest.mark.slow
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_the_server_starts_and_is_guarded(tmp_path, monkeypatch, database, request):
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed: the server needs flask-wtf")
    pytest.importorskip("prometheus_flask_exporter", reason="prometheus-flask-exporter is not installed")
    server = Server(tmp_path, request.getfixturevalue("postgresql") if database == "postgresql" else "")
    search = "/api/2.0/mlflow/experiments/search?max_results=1"
    try:
        server.start()
        assert server.get(search)[0] == 401
        assert server.get(search, "jobs", "wrong-password-1")[0] == 401
        assert server.get(search, "jobs")[0] == 200
        assert server.get("/", "admin")[0] == 200
        for host in ("train-mlflow", "train-mlflow:5000", "train-mlflow.training.svc:5000",
                     "train-mlflow.training.svc.cluster.local:5000", "localhost:5001", "127.0.0.1:5000"):  # fmt: skip
            assert server.get(search, "jobs", host=host)[0] == 200, host
        for host in ("evil.example.com", "train-mlflow:5001", "train-mlflow.other.svc:5000"):
            assert server.get(search, "jobs", host=host)[0] == 403, host
        # A job logs to a run of an experiment that somebody else made, and administers nothing.
        created = server.get("/api/2.0/mlflow/experiments/create", "admin", body={"name": "theirs"})
        experiment = json.loads(created[1])["experiment_id"]
        made = server.get("/api/2.0/mlflow/runs/create", "admin", body={"experiment_id": experiment})
        run_id = json.loads(made[1])["run"]["info"]["run_id"]
        point = {"run_id": run_id, "key": "train/loss", "value": 1.0, "timestamp": 1, "step": 1}
        assert server.get("/api/2.0/mlflow/runs/log-metric", "jobs", body=point)[0] == 200
        own = server.get("/api/2.0/mlflow/experiments/create", "jobs", body={"name": "ours"})
        assert own[0] == 200
        location = json.loads(
            server.get(f"/api/2.0/mlflow/experiments/get?experiment_id={experiment}", "jobs")[1]
        )
        assert location["experiment"]["artifact_location"].startswith("mlflow-artifacts:")
        grab = {"username": "mallory", "password": "password-of-mallory"}
        assert server.get("/api/2.0/mlflow/users/create", "jobs", body=grab)[0] == 403
        as_the_jobs_user(monkeypatch, server, "jobs")
        assert check_mlflow(f"http://127.0.0.1:{server.port}").outcome == "pass"
        # The administrator alone may read metrics, so Prometheus does it as the administrator.
        assert server.get("/metrics", "jobs")[0] == 403
        status, text = server.get("/metrics", "admin", host="127.0.0.1:5000")
        assert status == 200
        assert "mlflow_http_request_total" in text
        assert "mlflow_http_request_duration_seconds_bucket" in text
        assert server.get("/metrics")[0] == 401
        (tmp_path / "me").mkdir()
        for key, value in (("username", "jobs"), ("password", server.passwords["jobs"])):
            (tmp_path / "me" / key).write_text(value)
        checked = run("check_mlflow", f"http://127.0.0.1:{server.port}", "yes", str(tmp_path / "me"))
        assert checked.returncode == 0, checked.stderr
        if database == "sqlite":  # a PostgreSQL server has backups of its own
            done = run("mlflow_backup", str(tmp_path / "mlflow"), str(tmp_path / "backups"), "2")
            assert done.returncode == 0, done.stderr
        # A Secret with another password takes effect at the next start.
        server.stop()
        server.passwords = {"admin": "admin-password-2", "jobs": "jobs-password-22"}
        server.start()
        assert server.get(search, "jobs", "jobs-password-11")[0] == 401
        assert server.get(search, "jobs")[0] == 200
        assert server.get(search, "admin")[0] == 200
        log = (tmp_path / "log").read_text()
        assert "changed the password of user 'jobs' to the Secret's" in log
        assert not [p for p in ("admin-password", "jobs-password", "f" * 64) if p in log]
        assert "p%ss" not in log and "p%25ss" not in log
        assert bool(list((tmp_path / "mlflow").glob("*.db"))) == (database == "sqlite")
    finally:
        server.stop()


@pytest.mark.slow
def test_a_browser_is_signed_in_through_a_forwarded_port(tmp_path, monkeypatch):
    """The chart's server, by the profile of the chart, as ``trainwright ui`` opens it."""
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed: the server needs flask-wtf")
    profile = ClusterProfile.model_validate(
        yaml.safe_load(find(render(), "ConfigMap", "train-profile")["data"]["profile.yaml"])
    )
    pod = {
        "metadata": {"name": "mlflow-1", "labels": {}},
        "spec": find(render(), "Deployment", "train-mlflow")["spec"]["template"]["spec"],
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    service = find(render(), "Service", "train-mlflow")
    pod["metadata"]["labels"] = service["spec"]["selector"]
    server = Server(tmp_path)
    login = {"username": "jobs", "password": server.passwords["jobs"]}
    data = {key: base64.b64encode(value.encode()).decode() for key, value in login.items()}
    with FakeKubernetes() as kubernetes:
        monkeypatch.setenv("KUBECONFIG", str(kubernetes.kubeconfig(tmp_path)))
        kubernetes.put("services", service)
        kubernetes.put("pods", pod)
        kubernetes.put("secrets", {"metadata": {"name": str(profile.secrets.mlflow_secret)}, "data": data})
        kubernetes.listening["mlflow-1", 5000] = server.port
        try:
            server.start()
            dashboard, how = mlflow_dashboard(profile, str(profile.mlflow), "/")
            assert how == "signed in as jobs"
            with Gateway(dashboard) as gateway:
                browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
                page = browser.open(gateway.link, timeout=60).read().decode()
                scripts = re.findall(r'src="(/?static-files/[^"]+\.js)"', page)
                assert scripts
                for script in scripts:
                    assert len(browser.open(f"{gateway.url}/{script.lstrip('/')}", timeout=60).read()) > 1000
                make = urllib.request.Request(
                    f"{gateway.url}/ajax-api/2.0/mlflow/experiments/create",
                    json.dumps({"name": "by a browser"}).encode(),
                    {
                        "Content-Type": "application/json",
                        "Origin": gateway.url,
                        "Sec-Fetch-Site": "same-origin",
                    },
                )
                made = json.loads(browser.open(make, timeout=60).read())["experiment_id"]
            found = server.get(f"/api/2.0/mlflow/experiments/get?experiment_id={made}", "jobs")[1]
            assert json.loads(found)["experiment"]["name"] == "by a browser"
        finally:
            server.stop()


@pytest.mark.slow
def test_a_team_sees_nothing_of_another(tmp_path, monkeypatch):
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed: the server needs flask-wtf")
    pytest.importorskip("prometheus_flask_exporter", reason="prometheus-flask-exporter is not installed")
    server = Server(tmp_path, teams=["vision", "speech"])
    api = "/api/2.0/mlflow"

    def asked(workspace: str, user: str, path: str, body=None):
        server.workspace = workspace
        status, text = server.get(api + path, user, body=body)
        return status, json.loads(text) if status == 200 else text

    try:
        for _ in range(2):  # the second start finds all there
            server.start()
            for team in server.teams:
                name = {"name": "same-name"}
                status, found = asked(team, team, "/experiments/get-by-name?experiment_name=same-name")
                if status == 200:
                    experiment = found["experiment"]["experiment_id"]
                else:
                    experiment = asked(team, team, "/experiments/create", name)[1]["experiment_id"]
                made = asked(team, team, "/runs/create", {"experiment_id": experiment})[1]
                run = {"run_id": made["run"]["info"]["run_id"]}
                point = {**run, "key": "train/loss", "value": 1.0, "timestamp": 1, "step": 1}
                assert asked(team, team, "/runs/log-metric", point)[0] == 200
                other = "speech" if team == "vision" else "vision"
                for workspace in (team, other, "default"):
                    stranger = asked(workspace, other, f"/runs/get?run_id={run['run_id']}")
                    assert stranger[0] in (403, 404), (workspace, stranger)
                    assert asked(workspace, other, "/runs/log-metric", point)[0] in (403, 404)
                    listed = asked(workspace, other, "/experiments/search?max_results=100")
                    ids = (
                        [one["experiment_id"] for one in listed[1].get("experiments", [])]
                        if listed[0] == 200
                        else []
                    )
                    assert experiment not in ids, workspace
                assert asked(team, other, "/experiments/create", {"name": "mine now"})[0] == 403
                assert asked("default", team, "/experiments/create", {"name": "mine now"})[0] == 403
            as_the_jobs_user(monkeypatch, server, "vision")
            monkeypatch.setenv("MLFLOW_WORKSPACE", "vision")
            assert check_mlflow(f"http://127.0.0.1:{server.port}").outcome == "pass"
            monkeypatch.delenv("MLFLOW_WORKSPACE")
            # the release's own jobs go on in the workspace of those who name none
            created = asked("", "jobs", "/experiments/create", {"name": f"ours {time.time()}"})
            assert created[0] == 200
            # a run that the administrator made in a team's workspace is its jobs' to log to
            theirs = asked("vision", "admin", "/experiments/create", {"name": f"theirs {time.time()}"})[1]
            made = asked("vision", "admin", "/runs/create", {"experiment_id": theirs["experiment_id"]})[1]
            point = {
                "run_id": made["run"]["info"]["run_id"],
                "key": "a",
                "value": 1.0,
                "timestamp": 1,
                "step": 1,
            }
            assert asked("vision", "vision", "/runs/log-metric", point)[0] == 200
            server.stop()
        log = (tmp_path / "log").read_text()
        assert "Traceback" not in log
        assert not [password for password in server.passwords.values() if password in log]
    finally:
        server.stop()


TEAMS = {
    "no sign-in": ({"auth": False, "teams": [{"name": "vision", "secret": "s"}]}, "mlflow.auth is off"),
    "one name twice": ({"teams": [{"name": "vision", "secret": "s"}, {"name": "vision", "secret": "t"}]}, "twice"),
    "the workspace of the release": ({"teams": [{"name": "default", "secret": "s"}]}, "teams/0/name"),
}  # fmt: skip


@pytest.mark.parametrize("name", TEAMS)
def test_teams_that_can_not_be_told_apart_are_refused(name):
    values, sentence = TEAMS[name]
    with pytest.raises(HelmError, match=sentence):
        render({"mlflow": values})
