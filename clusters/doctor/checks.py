"""One check of ``doctor``, and those that need nothing but this machine and an address."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from orchestrator.clusters.shared.stores import ExplainedStore
from orchestrator.errors import TrainwrightError
from orchestrator.section import Section
from orchestrator.spec.addresses import with_password, without_password
from orchestrator.spec.profile import ClusterProfile

PACKAGES = ("ray", "torch", "mlflow", "deepspeed", "kubernetes", "pyarrow")
"""What is named with its version."""

_CLOCK_WARN_SECONDS, _CLOCK_FAIL_SECONDS = 5.0, 60.0
_HTTP_SECONDS = 15.0


class Outcome(StrEnum):
    """How a check ended."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


class Check(Section):
    """One line of ``doctor``."""

    name: str
    """What was looked at."""
    outcome: Outcome
    """How it ended."""
    message: str
    """What was found."""
    mend: str = ""
    """What to do, where something is to be done."""


def passed(name: str, message: str) -> Check:
    """A check that found all well."""
    return Check(name=name, outcome=Outcome.PASS, message=message)


def warned(name: str, message: str, mend: str) -> Check:
    """A check that found what may become trouble."""
    return Check(name=name, outcome=Outcome.WARN, message=message, mend=mend)


def failed(name: str, message: str, mend: str) -> Check:
    """A check that found what keeps jobs from running."""
    return Check(name=name, outcome=Outcome.FAIL, message=message, mend=mend)


def check_packages(kind: str) -> Check:
    """Versions of what jobs use; none is imported. A client of Kubernetes does without what trains."""
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if kind == "kubernetes" and missing and "kubernetes" not in missing:
        return passed(
            "packages", f"{', '.join(found)}; a client without {', '.join(missing)}, which pods have"
        )
    if missing:
        return failed(
            "packages",
            f"not installed: {', '.join(missing)}",
            "install trainwright again: pip install 'trainwright[train]'",
        )
    return passed("packages", ", ".join(found))


def check_storage(storage: str, *, where: str = "from here") -> Check:
    """Write, read and delete a small file."""
    name = f"doctor/{uuid.uuid4().hex}"
    content = os.urandom(64 * 1024)
    began = time.perf_counter()
    try:
        store = ExplainedStore(storage)
        store.write(name, content)
        is_same = store.read(name) == content
        store.remove(name)
    except TrainwrightError as error:
        return failed(
            f"storage {where}", str(error), "check the profile's storage, and the credentials for it"
        )
    milliseconds = (time.perf_counter() - began) * 1000
    if not is_same:
        return failed(
            f"storage {where}", f"{storage} gave back other bytes than it was given", "use another storage"
        )
    return passed(f"storage {where}", f"{storage}: wrote, read and deleted 64KB in {milliseconds:.0f}ms")


def check_mlflow(uri: str, *, where: str = "from here") -> Check:
    """Create an experiment with a run, log a metric, read it back, delete the experiment."""
    name = f"MLflow {where}"
    if not uri:
        return warned(name, "no tracking URI is known", "set mlflow in the profile, or MLFLOW_TRACKING_URI")
    if uri.startswith("sqlite:///"):
        return _check_sqlite(name, Path(uri.removeprefix("sqlite:///")))
    if not uri.startswith(("http://", "https://")):
        return warned(
            name, f"{uri}: neither a server nor SQLite; not looked at", "use an MLflow server for clusters"
        )
    began = time.perf_counter()
    try:
        _mlflow_round_trip(uri)
    except urllib.error.HTTPError as error:
        mend = {
            401: "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or the profile's mlflow_secret",
            403: "ask for the right to make experiments and log runs; or the server's --allowed-hosts lacks this address",
        }.get(error.code, "look at the server's log")
        return failed(name, f"{uri} answers HTTP {error.code}", mend)
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "reason", error)
        return failed(name, f"{uri}: {reason}", "check the address, and that the server runs")
    return passed(name, f"{uri}: logged and read back in {(time.perf_counter() - began) * 1000:.0f}ms")


def check_clock(ahead_seconds: float, whose: str) -> Check:
    """Whether a clock is near enough to ours: tokens and object stores refuse what seems too old."""
    message = f"{whose} is {abs(ahead_seconds):.0f}s {'ahead of' if ahead_seconds > 0 else 'behind'} this one"
    if abs(ahead_seconds) >= _CLOCK_FAIL_SECONDS:
        return failed("clock", message, "set both clocks by NTP")
    if abs(ahead_seconds) >= _CLOCK_WARN_SECONDS:
        return warned("clock", message, "set both clocks by NTP")
    return passed("clock", f"{whose} and this one agree to {_CLOCK_WARN_SECONDS:g}s")


def _check_sqlite(name: str, path: Path) -> Check:
    folder = path.parent
    if path.exists():
        try:
            with sqlite3.connect(f"file:{path}?mode=rw", uri=True, timeout=5) as connection:
                connection.execute("pragma schema_version").fetchone()
        except sqlite3.Error as error:
            return failed(name, f"{path}: {error}", "move the file away; a new one is made")
        return passed(name, f"{path} opens")
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return failed(name, f"{folder} can't be written", "set TRAINWRIGHT_HOME to a folder that can")
    return passed(name, f"{path} will be made by the first run")


def _mlflow_round_trip(uri: str) -> None:
    parts = urllib.parse.urlsplit(with_password(uri))
    server = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    login = _mlflow_login(parts)
    if workspace := os.environ.get("MLFLOW_WORKSPACE"):
        login["X-MLFLOW-WORKSPACE"] = workspace

    def call(verb: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{server}/api/2.0/mlflow/{path}",
            method=verb,
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json", **login},
        )
        with urllib.request.urlopen(request, timeout=_HTTP_SECONDS) as answer:
            value: dict[str, Any] = json.load(answer)
            return value

    now = int(time.time() * 1000)
    # of its own, as a job's: on others' experiments who may log (EDIT) may delete nothing
    title = f"trainwright doctor {uuid.uuid4().hex[:8]}"
    experiment = {"experiment_id": call("POST", "experiments/create", {"name": title})["experiment_id"]}
    try:
        run = call("POST", "runs/create", {**experiment, "start_time": now, "run_name": "trainwright doctor"})
        run_id = run["run"]["info"]["run_id"]
        call(
            "POST",
            "runs/log-metric",
            {"run_id": run_id, "key": "doctor", "value": 0.5, "timestamp": now, "step": 0},
        )
        metrics = call("GET", f"runs/get?run_id={run_id}")["run"]["data"]["metrics"]
        if [metric["value"] for metric in metrics] != [0.5]:
            raise ValueError("the metric that was logged is not there")
    finally:
        call("POST", "experiments/delete", experiment)


def _mlflow_login(address: urllib.parse.SplitResult) -> dict[str, str]:
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", urllib.parse.unquote(address.username or "") or None)
    password = os.environ.get(
        "MLFLOW_TRACKING_PASSWORD", urllib.parse.unquote(address.password or "") or None
    )
    if user is None or password is None:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def mlflow_uri(profile: ClusterProfile) -> str:
    """Where a profile's runs are tracked, without a password; empty where nothing says."""
    return without_password(profile.mlflow or os.environ.get("MLFLOW_TRACKING_URI") or "")
