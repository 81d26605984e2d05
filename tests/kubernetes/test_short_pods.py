"""What goes through a pod that lives for one command, on a real API server: uploads, a look at data, and forgotten runs."""

from __future__ import annotations

import json
import subprocess

import pytest
from chartkit.helm import binary
from control_plane import wait_until
from kuberay import STORAGE

from orchestrator.clusters.kubernetes.short_pod import SHORT_POD

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

LAST = 2000
TABLE = {
    "model": {"family": "mlp", "size": "debug", "in_features": 2, "outputs": 2},
    "data": {
        "train": {"kind": "csv", "path": f"{STORAGE}/data/mine/table.csv"},
        "eval": {"kind": "split", "fraction": 0.1},
        "columns": {"features": "*", "label": "label"},
    },
    "training": {"max_steps": LAST, "global_batch_size": 64, "log_every": 20},
}


@pytest.fixture(autouse=True)
def room_for_the_next(kube):
    yield
    kube.remove_all()


def short_pods(kube):
    path = "/api/v1/namespaces/training/pods"
    return kube.plane.request("GET", path, labelSelector=SHORT_POD)["items"]


def lines_of(kube, run, file, *more):
    return json.loads(kube.good("logs", run, "--cluster", str(file), "--json", *more))


def test_a_folder_is_uploaded_trained_on_and_its_run_outlives_the_rayjob(kube):
    """By a person with the chart's roles ``submitter`` and ``storage``; without the second each of it is refused in a sentence."""
    run, file = "upload-abcdefgh", kube.profile_file()
    mine = kube.folder / "mine"
    mine.mkdir()
    (mine / "table.csv").write_text("a,b,label\n" + "0.25,0.5,0\n0.5,0.25,1\n" * 200)
    for command in (("upload", str(mine)), ("list", "--all")):
        refused = kube.call(*command, "--cluster", str(file))
        assert refused.returncode not in (0, 1), refused
        assert "create pods" in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr

    with kube.with_storage_rights():
        go_through(kube, run, file, mine)


def go_through(kube, run, file, mine):
    said = kube.good("upload", str(mine), "--cluster", str(file))
    assert f"data.train.path: {STORAGE}/data/mine" in said
    arrived = kube.storage / "data" / "mine" / "table.csv"
    assert arrived.read_bytes() == (mine / "table.csv").read_bytes()

    kube.submit(run, file, **TABLE)  # where the table is, only pods see
    followed = kube.followed(run, file)
    followed.wait_for("checkpoint", 20)
    [head] = kube.pods(run, "head")
    exec_in_head = [
        binary("kubectl"),
        f"--kubeconfig={kube.plane.admin_kubeconfig}",
        "exec",
        "-i",
        "-n",
        "training",
    ]
    echoed = subprocess.run(
        [*exec_in_head, head["metadata"]["name"], "-c", "ray-head", "--", "sh", "-c", "id -u; cat; exit 3"],
        input="there and back",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    user = (
        head["spec"]["containers"][0]["securityContext"].get("runAsUser")
        or head["spec"]["securityContext"]["runAsUser"]
    )
    assert (echoed.returncode, echoed.stdout) == (3, f"{user}\nthere and back"), echoed
    kube.good("stop", run, "--cluster", str(file))
    told = followed.to_the_end()
    stopped_at = told[-1]["step"]
    assert told[-1]["state"] == "stopped"
    assert stopped_at < LAST

    kube.remove_all()
    assert kube.rayjob(run) is None
    [found] = [
        one
        for one in json.loads(kube.good("list", "--all", "--cluster", str(file), "--json"))
        if one["run_id"] == run
    ]
    assert (found["state"], found["reason"]) == ("stopped", "stopped_by_user"), found
    status = kube.status(run, file)
    assert (status["state"], status["step"]) == ("stopped", stopped_at), status
    assert lines_of(kube, run, file) == told
    assert {
        event["rank"] for event in lines_of(kube, run, file, "--rank", "1") if event["event"] == "worker"
    } == {1}

    kube.good("resume", run, "--cluster", str(file))
    again = list(kube.follow(run, file))
    assert [event["start_step"] for event in again if event["event"] == "attempt"] == [stopped_at]
    assert (again[-1]["state"], again[-1]["step"]) == ("succeeded", LAST)
    wait_until("no short pod is left", lambda: not short_pods(kube), seconds=60)
