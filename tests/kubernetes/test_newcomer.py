"""A newcomer's way on a cluster of one node: every command of Helm's notes and of docs/one-machine.md, one after the other.

The seconds that each took are printed as rows of the table in docs/one-machine.md.
"""

from __future__ import annotations

import contextlib
import http.cookiejar
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import chart_on_nodes
import pytest
from chartkit.helm import REPO, TOOLS, binary, work_copy
from chartkit.printed import commands_of_notes, commands_of_page

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1800)]

PAGE = REPO / "docs" / "one-machine.md"
NEEDS_AN_ENGINE = ("docker ", "kind ", "minikube ", "curl ")
NEEDS_A_NETWORK = ("make charts",)
"""Its result stands in its place: the operator's own chart from a clone."""
NEEDS_SPDY = ("kubectl port-forward ",)
"""The protocol of kubectl's forwarding, which these nodes don't speak."""
SERVES = "trainwright ui "
"""A command that ends with Ctrl-C."""
SUBMIT = "trainwright submit first.yaml --cluster train"
ONE_NODE = {"all": (1, 6)}


class Newcomer:
    """Somebody with a shell in an empty folder, a kubeconfig and this version of trainwright.

    Attributes:
        commands: Those that were run.
    """

    def __init__(self, cluster, folder):
        (folder / "helm").mkdir(parents=True)
        (folder / "helm" / "trainwright").symlink_to(work_copy())
        self.folder, self.commands, self.began = folder, [], time.monotonic()
        binary("helm")
        tools = f"{Path(sys.executable).parent}:{TOOLS}"
        self.environment = {
            "HOME": str(folder / "home"),
            "PATH": f"{tools}:{os.environ['PATH']}",
            "KUBECONFIG": str(cluster.plane.admin_kubeconfig),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, command):
        """What it printed; it has to end well."""
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.folder,
            check=False,
            timeout=900,
        )
        self._ran(command, began)
        assert done.returncode == 0, (
            f"{command}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        )
        return done.stdout

    @contextlib.contextmanager
    def shown(self, command, **words):
        """What asks for further paths of the dashboard that a command serves, as a browser does that has opened its link."""
        began = time.monotonic()
        said = command
        for word, stands_for in words.items():
            said = said.replace(word, stands_for)
        with subprocess.Popen(
            ["bash", "-c", f"exec {said}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.folder,
        ) as served:
            try:
                line = served.stdout.readline()
                assert line, served.stderr.read()
                [link] = re.findall(r"http://127\.0\.0\.1:\d+/\?token=\S+", line)
                browser = urllib.request.build_opener(
                    urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
                )

                def ask(path, body=None):
                    request = urllib.request.Request(
                        link.partition("/?")[0] + path,
                        data=body and json.dumps(body).encode(),
                        headers={"Content-Type": "application/json"},
                    )
                    with browser.open(request, timeout=120) as answer:
                        return answer.read()

                with browser.open(link, timeout=120) as answer:
                    assert b"<html" in answer.read().lower()
                self._ran(command, began)
                yield ask
            finally:
                served.send_signal(signal.SIGINT)
                assert served.wait(60) == 0, served.stderr.read()

    def _ran(self, command, began):
        self.commands.append(command)
        print(f"| `{command}` | {time.monotonic() - began:.1f} | {self.seconds:.0f} |", flush=True)

    @property
    def seconds(self):
        """Since it began."""
        return time.monotonic() - self.began


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Nothing but a node; who uses it brings the chart."""
    if reason := chart_on_nodes.missing(tmp_path_factory.mktemp("probe")):
        pytest.skip(reason)
    with chart_on_nodes.running(tmp_path_factory.mktemp("newcomer"), ONE_NODE) as made:
        yield made


def section(heading):
    """The commands of one section of the page."""
    [text] = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    return commands_of_page(text)


def test_from_an_empty_cluster_to_a_chart_of_the_loss_and_back(cluster):
    person = Newcomer(cluster, cluster.folder / "newcomer")
    for command in section("3. The release"):
        if not command.startswith(NEEDS_A_NETWORK):
            said = person.run(command)
    printed = commands_of_notes(said)
    for command in printed[: printed.index(SUBMIT) + 1]:
        said = person.run(command)
    [follow] = re.findall(r"trainwright logs \S+ --follow", said)
    person.run(follow)
    dashboard, of_ray = [one for one in printed if one.startswith(SERVES)]
    with person.shown(dashboard) as ask:
        losses = losses_of_mlflow(ask)
    print(
        f"{len(losses)} losses in MLflow, {losses[0]:.3f} to {losses[-1]:.3f}, {person.seconds:.0f} s after the first command"
    )
    assert len(losses) > 5
    assert losses[-1] < losses[0]
    with person.shown(of_ray, RUN=follow.split()[2]) as ask:
        assert len(json.loads(ask("/nodes?view=summary"))["data"]["summary"]) >= 1

    (person.folder / "my-data").mkdir()
    (person.folder / "my-data" / "table.csv").write_text("a,b\n1,2\n")
    rest = [*section("4. A model"), *section("Data of your own"), *printed]
    for command in rest:
        if command not in person.commands and not command.startswith((*NEEDS_SPDY, SERVES, "helm uninstall")):
            person.run(command)
    assert (person.folder / "ray-token").stat().st_mode & 0o777 == 0o600
    for command in section("Away with it"):
        person.run(command)

    named = [*printed, *commands_of_page(PAGE.read_text())]
    assert [
        one
        for one in named
        if one not in person.commands and not one.startswith(NEEDS_AN_ENGINE + NEEDS_A_NETWORK + NEEDS_SPDY)
    ] == []


def losses_of_mlflow(ask):
    """What MLflow's page asks for to draw the loss of its only run."""

    def api(path, body=None):
        return json.loads(ask(f"/ajax-api/2.0/mlflow/{path}", body))

    experiments = api("experiments/search", {"max_results": 100})["experiments"]
    runs = api("runs/search", {"experiment_ids": [one["experiment_id"] for one in experiments]})["runs"]
    [run] = [one for one in runs if any(metric["key"] == "train/loss" for metric in one["data"]["metrics"])]
    history = api(f"metrics/get-history?metric_key=train/loss&run_id={run['info']['run_id']}")["metrics"]
    return [one["value"] for one in sorted(history, key=lambda one: int(one["step"]))]
