import json
import sys
import threading

import pytest
from cluster_cases import kubernetes_profile, ray_profile
from fake_kubernetes import FakeKubernetes, status_object
from fake_ray_jobs import FakeRayJobs
from programmable_server import Answer, ProgrammableServer, wait_until

from orchestrator.clusters.doctor.checks import (
    check_clock,
    check_mlflow,
    check_packages,
    check_storage,
    mlflow_uri,
    passed,
)
from orchestrator.clusters.doctor.examine import doctor
from orchestrator.clusters.doctor.kubernetes import RIGHTS
from orchestrator.clusters.doctor.nodes import probe_command, probe_to_checks
from orchestrator.clusters.doctor.probe import MARK, bus_gigabytes_per_second
from orchestrator.spec.profile import ClusterProfile


def outcomes(checks):
    return {check.name: check.outcome.value for check in checks}


def node(host="a", time=100.0, python="3.11.7", storage=None, **versions):
    return {
        "host": host,
        "time": time,
        "cpus": 8,
        "gpus": 0,
        "memory": 1e9,
        "labels": {},
        "versions": {"python": python, "torch": "2.13", **versions},
        "storage": (storage or passed(f"storage from {host}", "fine")).model_dump(mode="json"),
    }


def probe(*nodes, **more):
    return {"nodes": list(nodes), "free": {"CPU": 4, "GPU": 0, "memory": 5e8}, "mlflow": None, **more}


HEAD = {"ray": "2.60.0", "python": "3.11.7"}


def test_a_healthy_cluster_passes_every_line():
    found = list(
        probe_to_checks(
            probe(
                node("a"), node("b"), all_reduce={"ranks": 2, "backend": "gloo", "gigabytes_per_second": 1.25}
            ),
            HEAD,
        )
    )
    assert set(outcomes(found).values()) == {"pass"}
    assert found[-1].message == "gloo over 2 processes: 1.25 GB/s a link"
    assert [check.name for check in found] == [
        "nodes",
        "free",
        "storage from the nodes",
        "clock",
        "all-reduce",
    ]


def test_each_fault_of_a_node_is_a_line_with_its_mend(tmp_path):
    (tmp_path / "file").write_text("")
    broken = check_storage(str(tmp_path / "file" / "x"), where="from b")
    found = {
        check.name: check
        for check in probe_to_checks(
            probe(
                node("a", time=100.0, torch="missing"),
                node("b", time=190.0, python="3.12.1", storage=broken),
                free={"CPU": 0, "GPU": 0, "memory": 0},
                all_reduce={"ranks": 2, "backend": "nccl", "error": "connection refused"},
            ),
            HEAD,
        )
    }
    assert found["packages on a"].message == "not installed: torch"
    assert found["packages on b"].message == "Python 3.12.1, but the head has 3.11.7"
    assert found["storage from b"].outcome == "fail"
    assert found["clock"].outcome == "fail"
    assert found["free"].outcome == "warn"
    assert found["all-reduce"].message == "nccl over 2 processes: connection refused"
    assert all(check.mend for check in found.values() if check.outcome != "pass")


def test_the_bandwidth_of_a_link():
    assert bus_gigabytes_per_second(seconds=1.0, world_size=2) == pytest.approx(0.032)
    assert bus_gigabytes_per_second(seconds=1.0, world_size=4) == pytest.approx(0.048)


def test_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found = outcomes(doctor(ClusterProfile(name="local", kind="local")))
    assert set(found) == {"packages", "disk", "shared memory", "storage from here", "MLflow from here"}
    assert found["storage from here"] == found["MLflow from here"] == "pass"
    assert not list((tmp_path / "home" / "doctor").iterdir())


def test_packages_are_named_with_their_versions():
    assert "ray 2.60.0" in check_packages("local").message


@pytest.mark.parametrize(("ahead", "outcome"), [(0, "pass"), (-3, "pass"), (9, "warn"), (-61, "fail")])
def test_clocks(ahead, outcome):
    assert check_clock(ahead, "the head's clock").outcome == outcome


class FakeMlflow(ProgrammableServer):
    """Of whose users each may delete experiments of their own alone, as with ``default_permission = EDIT``."""

    made, runs, workspaces = None, None, frozenset()

    def route(self, asked):
        if self.made is None:
            self.made, self.runs = {}, {}
        self.workspaces |= {asked.headers.get("x-mlflow-workspace")}
        name = asked.path.removeprefix("/api/2.0/mlflow/")
        if asked.headers.get("authorization") != "Basic dTpw":
            return Answer(401, b"")
        if name == "experiments/create":
            self.made["7"] = asked.json["name"]
            return Answer(body={"experiment_id": "7"})
        if name == "runs/create":
            self.runs["1"] = []
            return Answer(body={"run": {"info": {"run_id": "1"}}})
        if name == "runs/log-metric":
            self.runs[asked.json["run_id"]].append({"key": asked.json["key"], "value": asked.json["value"]})
        if name == "runs/get":
            return Answer(body={"run": {"data": {"metrics": self.runs[asked.query["run_id"]]}}})
        if name.endswith("/delete"):
            if asked.json.get("experiment_id") not in self.made:
                return Answer(403, b"")
            del self.made[asked.json["experiment_id"]]
        return Answer(body={})


def test_mlflow_keeps_what_it_is_given_and_nothing_stays(monkeypatch):
    with FakeMlflow() as server:
        assert check_mlflow(server.url).message.endswith("answers HTTP 401")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "u")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "p")
        assert check_mlflow(server.url).outcome == "pass"
        assert server.made == {}
        assert server.workspaces == {None}
        monkeypatch.setenv("MLFLOW_WORKSPACE", "vision")
        assert check_mlflow(server.url).outcome == "pass"
        assert server.workspaces == {None, "vision"}
        server.fail("POST", "log-metric", Answer(body={}))
        assert check_mlflow(server.url).message == f"{server.url}: the metric that was logged is not there"
    assert check_mlflow(server.url).outcome == "fail"


def test_the_password_of_the_environments_address_is_used_and_not_shown(monkeypatch):
    with FakeMlflow() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url.replace("http://", "http://u:p@"))
        profile = ClusterProfile(name="here", kind="local")
        shown = mlflow_uri(profile)
        assert shown == server.url.replace("http://", "http://u@")
        said = check_mlflow(shown)
        assert said.outcome == "pass" and "u:p@" not in said.message
        assert probe_command(profile, shown)[-1] == shown
    said = check_mlflow(shown)
    assert said.outcome == "fail" and "u:p@" not in said.message


def test_mlflow_in_a_file(tmp_path):
    assert check_mlflow(f"sqlite:///{tmp_path}/new/mlflow.db").message.endswith(
        "will be made by the first run"
    )
    (tmp_path / "bad.db").write_text("not a database, but long enough to be looked at as one" * 9)
    assert check_mlflow(f"sqlite:///{tmp_path}/bad.db").outcome == "fail"
    assert check_mlflow("").outcome == "warn"


def answer_probe(server, seen):
    """What KubeRay and the pods make of doctor's RayJob."""
    wait_until(lambda: server.objects["rayjobs"] and server.objects["configmaps"], "a RayJob")
    seen |= server.only("rayjobs")
    name = seen["metadata"]["name"]
    labels = {"ray.io/cluster": f"{name}-x1", "ray.io/node-type": "head"}
    server.put("pods", {"metadata": {"name": "head", "labels": labels}, "status": {"phase": "Running"}})
    reduced = {"ranks": 3, "backend": "gloo", "gigabytes_per_second": 1.5}
    answer = MARK + json.dumps(probe(node("head"), node("b"), node("c"), all_reduce=reduced))
    server.logs[("head", "run-log")] = ["a line of Ray's", answer]
    server.set_status(name, jobDeploymentStatus="Running", jobStatus="RUNNING", rayClusterName=f"{name}-x1")


def put_head_without_image(server):
    """What KubeRay and a kubelet make of a RayJob whose image is not there."""
    wait_until(lambda: server.objects["rayjobs"] and server.objects["configmaps"], "a RayJob")
    name = server.only("rayjobs")["metadata"]["name"]
    labels = {"ray.io/cluster": f"{name}-x1", "ray.io/node-type": "head"}
    waiting = {
        "reason": "ErrImagePull",
        "message": "rpc error: code = NotFound desc = r.example/a:1: not found",
    }
    status = {
        "phase": "Pending",
        "containerStatuses": [{"name": "ray-head", "image": "r.example/a:1", "state": {"waiting": waiting}}],
    }
    server.put("pods", {"metadata": {"name": "head", "labels": labels}, "status": status})
    server.set_status(name, jobDeploymentStatus="Initializing", rayClusterName=f"{name}-x1")


def test_an_image_that_is_not_there_is_said_at_once_with_what_mends_it(tmp_path, monkeypatch):
    profile = kubernetes_profile({"storage_claim": "data"}, storage="/data")
    with FakeKubernetes() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        making = threading.Thread(target=put_head_without_image, args=(server,))
        making.start()
        (image,) = [check for check in doctor(profile) if check.name in ("image", "pods")]
        making.join()
        assert (image.name, image.outcome) == ("image", "fail")
        assert (
            image.message
            == "pod head: ray-head: image r.example/a:1 can't be had: ErrImagePull: r.example/a:1: not found"
        )
        assert "image.registry, repository, tag" in image.mend
        assert "imagePullSecrets" in image.mend
        assert not server.objects["rayjobs"]


def test_kubernetes_in_order_and_in_trouble(tmp_path, monkeypatch):
    profile = kubernetes_profile(
        {"storage_claim": "data"}, storage="/data", mlflow="http://mlflow.training.svc:5000"
    )
    with FakeKubernetes() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        server.put("persistentvolumeclaims", {"metadata": {"name": "data"}, "status": {"phase": "Bound"}})
        seen = {}
        answering = threading.Thread(target=answer_probe, args=(server, seen))
        answering.start()
        found = outcomes(doctor(profile))
        answering.join()
        assert found == {
            "packages": "pass",
            "reachable": "pass",
            "clock": "pass",
            "KubeRay": "pass",
            "rights": "pass",
            "rights to the claim": "pass",
            "rights to dashboards": "pass",
            "storage claim": "pass",
            "nodes": "pass",
            "free": "pass",
            "storage from the nodes": "pass",
            "all-reduce": "pass",
            "MLflow from here": "warn",
        }
        command = "python -m orchestrator.clusters.doctor.probe --storage /data --mlflow http://mlflow.training.svc:5000"
        assert seen["spec"]["entrypoint"] == command
        assert [group["replicas"] for group in seen["spec"]["rayClusterSpec"]["workerGroupSpecs"]] == [2]
        assert not server.objects["rayjobs"] and not server.objects["configmaps"]
        monkeypatch.setattr("orchestrator.clusters.doctor.kubernetes._PODS_SECONDS", 0.0)
        (silent,) = [check for check in doctor(profile) if check.name == "pods"]
        assert silent.outcome == "fail"
        assert silent.message == "a RayJob gave no answer within 0s: KubeRay has not seen it yet"
        assert not server.objects["rayjobs"] and not server.objects["configmaps"]
        server.put("persistentvolumeclaims", {"metadata": {"name": "data"}, "status": {"phase": "Pending"}})
        (claim,) = [check for check in doctor(profile) if check.name == "storage claim"]
        assert (claim.outcome, claim.message) == ("warn", "data is Pending")
        said = 'storageclass.storage.k8s.io "shared" not found'
        of_claim = {"kind": "PersistentVolumeClaim", "name": "data"}
        for name, about, message in (
            ("a", of_claim, said),
            ("b", {**of_claim, "name": "other"}, "another's"),
        ):
            event = {
                "metadata": {"name": name},
                "type": "Warning",
                "involvedObject": about,
                "message": message,
            }
            server.put("events", event)
        (claim,) = [check for check in doctor(profile) if check.name == "storage claim"]
        assert (claim.outcome, claim.message) == ("fail", f"data can't be bound: {said}")
        server.denied = {("patch", "rayjobs"), ("get", "pods/log"), ("create", "pods/exec")}
        server.has_kuberay = False
        server.objects["persistentvolumeclaims"].clear()
        trouble = {check.name: check for check in doctor(profile)}
        assert trouble["rights"].message == "in namespace training you may not patch rayjobs, get pods/log"
        of_claim = trouble["rights to the claim"]
        assert (
            of_claim.outcome == "warn"
            and "you may not create pods/exec: without that no logs" in of_claim.message
        )
        assert trouble["KubeRay"].outcome == trouble["storage claim"].outcome == "fail"
        server.fail("GET", "persistentvolumeclaims", status_object(403, "Forbidden", "you can't"))
        (claim,) = [check for check in doctor(profile) if check.name == "storage claim"]
        assert claim.outcome == "warn"
        server.token = "another"
        found = outcomes(doctor(profile))
        assert found == {"packages": "pass", "reachable": "pass", "clock": "pass", "access": "fail"}
    assert len(RIGHTS) == len(set(RIGHTS))


def test_a_ray_cluster_in_trouble(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    with FakeRayJobs() as head:
        checks = list(doctor(ray_profile(head.url, tmp_path)))
        assert outcomes(checks) == {"packages": "pass", "reachable": "fail"}
        assert "refuses the token" in checks[-1].message
        monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
        head.python_version = f"3.{sys.version_info.minor + 1}.0"
        assert [check.outcome for check in doctor(ray_profile(head.url, tmp_path))][-1] == "fail"
