"""The Kubernetes backend, by the official client over real HTTP, against a server that checks RayJobs with KubeRay's
schema, and that is in every trouble that an API server can be in."""

import json
import shutil
import subprocess
import sys
import threading
import time
from datetime import datetime
from types import SimpleNamespace

import pytest
from cluster_cases import kubernetes_profile, plan
from fake_kubernetes import FakeKubernetes, status_object
from programmable_server import Answer, wait_until

from orchestrator import sdk
from orchestrator.clusters.kubernetes.api import ApiServer
from orchestrator.clusters.kubernetes.cluster import KubernetesCluster
from orchestrator.clusters.kubernetes.login import connect
from orchestrator.clusters.kubernetes.pods import Pods
from orchestrator.clusters.kubernetes.rayjobs import RayJobs
from orchestrator.clusters.kubernetes.request import STOP
from orchestrator.clusters.shared import moment
from orchestrator.clusters.shared.patience import Patience
from orchestrator.errors import InfrastructureError, NotFoundError, ResourcesError, SpecError
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord
from orchestrator.runs import RunState, RunStatus

RUN = "digits-abcdefgh"
CLAIM = {"storage_claim": "data"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    with FakeKubernetes() as running:
        monkeypatch.setenv("KUBECONFIG", str(running.kubeconfig(tmp_path)))
        yield running


def cluster(options=None, patience_seconds=5.0, read_seconds=30.0, quota_seconds=360.0, **sections):
    profile = kubernetes_profile({**CLAIM, **(options or {})}, **{"storage": "/data", **sections})
    return KubernetesCluster(
        profile,
        ApiServer(
            profile,
            patience=Patience(patience_seconds, 0.01),
            read_seconds=read_seconds,
            quota_seconds=quota_seconds,
        ),
    )


def wanted(run_id=RUN, **sections):
    return plan(run_id=run_id, storage=f"/data/runs/{run_id}", **sections)


def submit(backend, **options):
    return backend.submit(backend.render(wanted(**options)))


def running_head(server, name=RUN):
    """What KubeRay makes of a RayJob whose pods run."""
    labels = {"ray.io/cluster": f"{name}-x1", "ray.io/node-type": "head"}
    server.put(
        "pods", {"metadata": {"name": f"{name}-head", "labels": labels}, "status": {"phase": "Running"}}
    )
    lines = server.logs.setdefault((f"{name}-head", "run-log"), [])
    server.set_status(name, jobDeploymentStatus="Running", jobStatus="RUNNING", rayClusterName=f"{name}-x1")
    return lines


# -- sending ---------------------------------------------------------------------------------------------------


def test_a_submit_makes_a_rayjob_and_the_config_map_that_it_owns(server):
    backend = cluster()
    status = submit(backend)
    assert (status.state, status.run_id, status.message) == (
        RunState.PENDING,
        RUN,
        "KubeRay has not seen it yet",
    )
    rayjob, config_map = server.only("rayjobs"), server.only("configmaps")
    assert rayjob["spec"] == backend.render(wanted()).body["spec"]
    assert config_map["metadata"]["ownerReferences"][0]["uid"] == rayjob["metadata"]["uid"]
    assert Plan.model_validate_json(config_map["data"]["plan.json"]) == wanted()
    assert float(config_map["data"]["submitted-at"]) == status.submitted_at > 0


def test_it_is_checked_by_the_server_before_anything_is_made(server):
    submit(cluster())
    creations = [
        (asked.path.rpartition("/")[2], asked.query.get("dryRun"))
        for asked in server.asked
        if asked.method == "POST"
    ]
    assert creations == [("rayjobs", "All"), ("configmaps", "All"), ("rayjobs", None), ("configmaps", None)]
    assert {asked.query["fieldValidation"] for asked in server.asked if asked.path.endswith("/rayjobs")} == {
        "Strict"
    }


def test_a_repeated_submit_is_one_run(server):
    assert submit(cluster()) == submit(cluster())
    assert len(server.objects["rayjobs"]) == len(server.objects["configmaps"]) == 1


def test_twenty_submits_at_once_are_one_run(server):
    found, troubles = [], []

    def one():
        try:
            found.append(submit(cluster()))
        except Exception as error:
            troubles.append(error)

    threads = [threading.Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    assert len(found) == 20
    assert len(server.objects["rayjobs"]) == len(server.objects["configmaps"]) == 1


@pytest.mark.parametrize("kind", ["lose", "drop"])
@pytest.mark.parametrize("path", ["/rayjobs$", "/configmaps$"])
def test_a_lost_answer_is_one_run(server, kind, path):
    server.fail("POST", path, kind=kind, times=2)
    submit(cluster())
    assert len(server.objects["rayjobs"]) == len(server.objects["configmaps"]) == 1


TWENTY_PROCESSES = """
import os, sys
from orchestrator.clusters import open_cluster
from orchestrator.planning.plan import Plan
from orchestrator.spec.profile import ClusterProfile
import kubernetes
profile = ClusterProfile.model_validate_json(sys.argv[1])
plan = Plan.model_validate_json(sys.argv[2])
ready, go = os.pipe()
children = []
for _ in range(20):
    if not (child := os.fork()):
        os.close(go)
        os.read(ready, 1)  # returns when the parent closes its end: all begin at once
        cluster = open_cluster(profile)
        cluster.submit(cluster.render(plan))
        os._exit(0)
    children.append(child)
os.close(go)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


@pytest.mark.slow
def test_twenty_processes_at_once_are_one_run(server):
    arguments = [cluster().profile.model_dump_json(), wanted().model_dump_json()]
    done = subprocess.run(
        [sys.executable, "-c", TWENTY_PROCESSES, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # each asks first whether it could, and who comes late learns that it is there already
    assert 21 <= server.count("POST", "/rayjobs$") <= 40
    assert len(server.objects["rayjobs"]) == len(server.objects["configmaps"]) == 1


def test_a_submit_that_died_half_way_is_completed_by_the_next(server):
    submit(cluster())
    server.objects["configmaps"].clear()
    submit(cluster())
    assert (
        server.only("configmaps")["metadata"]["ownerReferences"][0]["uid"]
        == server.only("rayjobs")["metadata"]["uid"]
    )


def test_another_object_of_the_name_is_not_taken_for_ours(server):
    submit(cluster())
    with pytest.raises(SpecError, match="namespace training has another RayJob named digits-abcdefgh"):
        submit(cluster(), training={"max_steps": 7})


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (status_object(403, "Forbidden", 'configmaps is forbidden: User "u" cannot create'), InfrastructureError, "you have no right to create configmaps in namespace training"),
        (status_object(403, "Forbidden", 'configmaps "x" is forbidden: exceeded quota: team, used: 5, limited: 5'), ResourcesError, "exceeded quota: team"),
        (status_object(422, "Invalid", "Too long: must have at most 1048576 bytes"), SpecError, "Too long"),
    ],
)  # fmt: skip
def test_nothing_is_left_when_a_later_step_fails(server, answer, error, sentence):
    for query in ({"dryRun": "All"}, {"dryRun": None}):
        server.fail("POST", "/configmaps$", answer, query=query)
        with pytest.raises(error, match=sentence):
            submit(cluster())
        assert server.objects["rayjobs"] == server.objects["configmaps"] == {}
    assert server.count("DELETE", "/rayjobs/") == 1  # at first it was known before anything was made


def test_a_job_that_another_submitted_is_not_removed_when_ours_fails(server):
    submit(cluster())
    server.fail("POST", "/configmaps$", status_object(403, "Forbidden", "no"), query={"dryRun": None})
    with pytest.raises(InfrastructureError):
        submit(cluster())
    assert len(server.objects["rayjobs"]) == 1


def test_a_quota_that_is_exceeded_is_said_before_anything_is_made(server):
    said = (
        'rayjobs.ray.io "x" is forbidden: exceeded quota: team, requested: count/rayjobs.ray.io=1, limited: 0'
    )
    server.fail("POST", "/rayjobs$", status_object(403, "Forbidden", said))
    with pytest.raises(ResourcesError, match=r"^cluster prod: rayjobs\.ray\.io .* exceeded quota: team"):
        submit(cluster())
    assert server.count("POST", ".") == 1


def test_a_quota_that_was_not_counted_yet_is_waited_for_and_told(server, caplog):
    said = 'rayjobs.ray.io "x" is forbidden: status unknown for quota: team, resources: count/rayjobs.ray.io'
    answer = status_object(403, "Forbidden", said)
    server.fail("POST", "/rayjobs$", answer, times=5)
    assert submit(cluster(patience_seconds=0.0)).state is RunState.PENDING
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(
        "cluster prod: Kubernetes has not counted yet what the quota of namespace training limits"
    )
    assert said.endswith("waiting for it, up to 6 minutes")
    server.fail("POST", "/rayjobs$", answer, times=99)
    with pytest.raises(InfrastructureError, match=r"has not counted yet .* try again in a minute"):
        submit(cluster(quota_seconds=0.05), run_id="digits-impatient")


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ('rayjobs.ray.io "x" is forbidden: unable to create new content in namespace training because it is being terminated', InfrastructureError),
        ("rayjobs.ray.io \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", SpecError),
        ('admission webhook "w.example.com" denied the request: no', SpecError),
    ],
)  # fmt: skip
def test_a_refusal_that_is_no_missing_right_is_quoted(server, said, error):
    server.fail("POST", "/rayjobs$", status_object(403, "Forbidden", said))
    with pytest.raises(error) as refused:
        submit(cluster())
    assert said in str(refused.value)
    assert "right" not in str(refused.value)


def test_a_working_directory_travels_in_the_config_map_or_is_refused(server, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text("x = 1")
    job = wanted(base_dir=tmp_path, environment={"working_dir": "code"})
    backend = cluster()
    backend.submit(backend.render(job))
    assert "working-dir.zip" in server.only("configmaps")["binaryData"]
    assert "file:///etc/trainwright/run/working-dir.zip" in server.only("rayjobs")["spec"]["runtimeEnvYAML"]
    noise = bytes(range(256)).hex()
    (tmp_path / "code" / "mine.py").write_text(
        "".join(f"{n * 7919 % 1000003} {hash((n, noise))}\n" for n in range(80_000))
    )
    with pytest.raises(
        SpecError, match=r"its package and the plan have .*, but a ConfigMap holds 1MB; build the code into"
    ):
        backend.render(job)


def test_a_plan_that_no_config_map_holds_is_refused_before_anything_is_sent(server):
    with pytest.raises(SpecError, match="the plan is larger than a ConfigMap may be"):
        submit(cluster(), environment={"env": {"A": "x" * 1_000_001}})
    assert server.asked == []


def test_in_a_pod_the_pod_s_own_account_is_used(tmp_path, monkeypatch):
    from kubernetes.config import incluster_config

    for name, content in (("TOKEN", "of the pod"), ("CERT", "certificate")):
        (tmp_path / name).write_text(content)
        monkeypatch.setattr(incluster_config, f"SERVICE_{name}_FILENAME", str(tmp_path / name))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("ssl.SSLContext.load_verify_locations", lambda *_, **__: None)
    configuration = connect(kubernetes_profile(CLAIM)).configuration
    assert configuration.host == "https://10.0.0.1:443"
    [login] = configuration.auth_settings().values()
    assert (login["key"], login["value"]) == ("authorization", "bearer of the pod")


def test_a_name_that_kubernetes_would_refuse_is_made_safe(server):
    backend = cluster()
    odd = "2024-" + "x" * 58
    submit(backend, run_id=odd)
    assert backend.status(odd).run_id == odd


# -- what a server answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (status_object(401, "Unauthorized", "Unauthorized"), InfrastructureError, "the API server does not know you; log in again"),
        (status_object(403, "Forbidden", "forbidden"), InfrastructureError, "you have no right to list rayjobs.ray.io in namespace training; ask for a role"),
        (Answer(404, b"404 page not found\n"), InfrastructureError, "knows no rayjobs.ray.io in version v1; install the KubeRay operator"),
        (status_object(410, "Expired", "too old"), InfrastructureError, "too old"),
        (Answer(500, b"boom"), InfrastructureError, "can't list rayjobs.ray.io: HTTP 500: boom"),
        (Answer(503, b"<html>gateway</html>"), InfrastructureError, "can't list rayjobs.ray.io: HTTP 503$"),
        (Answer(200, b"<html>please log in</html>", {"Content-Type": "text/html"}), InfrastructureError, "answers with a web page that is no JSON object"),
        (Answer(200, b"[]"), InfrastructureError, "answers with something that is no JSON object"),
    ],
)  # fmt: skip
def test_each_bad_answer_is_one_sentence(server, answer, error, sentence):
    server.fail("GET", "/rayjobs$", answer, times=99)
    with pytest.raises(error, match=sentence):
        cluster(patience_seconds=0.05).list()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_what_passes_is_waited_for(server, status):
    server.fail("GET", "/rayjobs$", Answer(status, b"", {"Retry-After": "0.01"}), times=3)
    assert cluster().list() == []
    assert server.count("GET", "/rayjobs$") == 4


@pytest.mark.parametrize("status", [401, 403, 404, 422])
def test_what_does_not_pass_is_asked_once(server, status):
    server.fail("GET", "/rayjobs$", Answer(status, b"no"), times=99)
    with pytest.raises((InfrastructureError, NotFoundError, SpecError)):
        cluster().list()
    assert server.count("GET", "/rayjobs$") == 1


def test_retry_after_is_kept(server):
    pauses = []
    profile = kubernetes_profile(CLAIM, storage="/data")
    rayjobs = RayJobs(ApiServer(profile, patience=Patience(60.0, 0.01, sleep=pauses.append)))
    server.fail("GET", "/rayjobs$", Answer(429, b"", {"Retry-After": "7"}))
    rayjobs.all_ours()
    assert pauses == [7.0]


def test_who_follows_a_run_waits_for_an_api_server_that_is_away_and_is_told_once(server, caplog):
    profile = kubernetes_profile(CLAIM, storage="/data")
    asked = ApiServer(profile, patience=Patience(0.0, 0.0001), outage_seconds=120.0)
    follower = RayJobs(asked.following())
    assert follower.all_ours() == []
    server.fail("GET", "/rayjobs$", kind="drop", times=4)
    server.fail("GET", "/rayjobs$", Answer(503, b""), times=4)
    server.fail("GET", "/rayjobs$", Answer(403, b"rights are not known yet"), times=4)
    assert follower.all_ours() == []
    away, back = (record.message for record in caplog.records)
    assert "does not answer (connection dropped); the run goes on without it" in away
    assert "up to 2 minutes" in away
    assert back.endswith("answers again")
    server.fail("GET", "/rayjobs$", kind="drop")
    with pytest.raises(InfrastructureError, match="does not answer"):
        RayJobs(asked).all_ours()
    server.fail("GET", "/rayjobs$", Answer(403, b""), times=99)
    with pytest.raises(InfrastructureError, match="you have no right"):
        RayJobs(asked.following()).all_ours()
    assert server.count("GET", "/rayjobs$") == 1 + 13 + 1 + 1


@pytest.mark.parametrize("kind", ["drop", "stall"])
def test_no_answer_is_taken_up_again_and_then_given_up(server, kind):
    server.fail("GET", "/rayjobs$", kind=kind)
    assert cluster(read_seconds=0.5).list() == []
    server.fail("GET", "/rayjobs$", kind=kind, times=99)
    said = "connection dropped" if kind == "drop" else "no answer in time"
    with pytest.raises(InfrastructureError, match=f"the API server does not answer \\({said}\\)"):
        cluster(patience_seconds=0.0, read_seconds=0.5).list()


def test_nobody_there(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path, server="http://127.0.0.1:1")))
    with pytest.raises(InfrastructureError, match=r"does not answer \(connection refused\); check context"):
        cluster(patience_seconds=0.0).ping()


def test_a_context_that_is_not_there(server):
    with pytest.raises(
        SpecError, match=r"kubernetes\.context nowhere can't be used: .*; the kubeconfig has here$"
    ):
        cluster({"context": "nowhere"}).ping()


def test_no_kubeconfig_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(SpecError, match="there is no kubeconfig"):
        cluster().ping()


@pytest.fixture
def next_token(server, tmp_path, monkeypatch):
    """Gives a token by a command that does not say when it ends; called, it ends that one, and the command has another."""
    file = tmp_path / "token.json"
    version = "client.authentication.k8s.io/v1"

    def lay(token, *, is_known=True):
        server.token = token
        if is_known:
            said = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": token}}
            file.write_text(json.dumps(said))

    lay("first")
    fetched = {"apiVersion": version, "command": "cat", "args": [str(file)], "interactiveMode": "Never"}
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path, user={"exec": fetched})))
    return lay


def test_a_token_that_has_ended_is_fetched_anew(server, next_token):
    """Kubernetes' client does so only where the token said when it ends."""
    backend = cluster()
    submit(backend)
    for number, ask in enumerate((backend.list, lambda: backend.stop(RUN), lambda: backend.resume(RUN)), 2):
        next_token(f"token {number}")
        ask()
        running_head(server)
        server.set_status(RUN, jobDeploymentStatus="Complete", jobStatus="STOPPED")
    refused = server.count("GET", "/rayjobs$")
    next_token("not to be had", is_known=False)
    with pytest.raises(InfrastructureError, match="the API server does not know you; log in again"):
        backend.list()
    assert server.count("GET", "/rayjobs$") == refused + 1


def test_a_log_is_followed_beyond_the_token_with_which_it_began(server, next_token):
    backend = cluster()
    submit(backend)
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(backend.logs(RUN, follow=True)))
    reader.start()
    wait_until(lambda: server.count("GET", "/rayjobs$") > 1, "the watch")
    next_token("second")
    lines = running_head(server)
    lines.append("one")
    wait_until(lambda: server.count("GET", "/log$") >= 1, "the first stream")
    next_token("third")
    server.logs[f"{RUN}-head", "closed"] = True  # the connection ends; the container does not
    lines.append("two")
    wait_until(lambda: server.count("GET", "/log$") >= 3, "another stream")
    server.set_status(RUN, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    reader.join(30)
    assert not reader.is_alive()
    assert seen == ["one", "two"]


def test_a_namespace_that_is_not_there(server):
    with pytest.raises(InfrastructureError, match="namespace elsewhere is not there"):
        submit(cluster({"namespace": "elsewhere"}))


def test_a_cluster_without_kuberay(server):
    server.has_kuberay = False
    with pytest.raises(InfrastructureError, match=r"knows no rayjobs\.ray\.io in version v1"):
        submit(cluster())
    with pytest.raises(InfrastructureError, match="answers but knows no RayJobs"):
        cluster().ping()


def test_a_kuberay_of_another_version(server):
    said = 'strict decoding error: unknown field "spec.preRunningDeadlineSeconds"'
    server.fail("POST", "/rayjobs$", status_object(400, "BadRequest", said))
    with pytest.raises(
        SpecError,
        match=r"refuses the object \(its KubeRay is of another version\): .*preRunningDeadlineSeconds",
    ):
        submit(cluster())


def test_a_list_of_many_pages_and_a_page_whose_place_is_gone(server):
    backend = cluster()
    for number in range(5):
        submit(backend, run_id=f"run-{number}-abcdefgh")
    server.page_size = 2
    assert len(backend.list()) == 5
    server.fail("GET", "/rayjobs$", status_object(410, "Expired", "the continue token is too old"))
    assert len(backend.list()) == 5


# -- how it stands ---------------------------------------------------------------------------------------------


def test_why_it_waits_is_told_within_the_call(server):
    backend = cluster()
    submit(backend)
    server.set_status(RUN, jobDeploymentStatus="Initializing", rayClusterName="c1")
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available: 3 Insufficient cpu.",
    }
    server.put(
        "pods",
        {
            "metadata": {"name": "c1-head", "labels": {"ray.io/cluster": "c1"}},
            "status": {"conditions": [condition]},
        },
    )
    status = backend.status(RUN)
    assert status.state is RunState.PENDING
    assert (
        status.message
        == "pod c1-head has no node: Unschedulable: 0/3 nodes are available: 3 Insufficient cpu"
    )


def test_a_list_says_why_each_run_waits_from_two_calls(server):
    backend = cluster()
    for name in ("one-abcdefgh", "two-abcdefgh", "three-abcdefgh"):
        submit(backend, run_id=name)
        server.set_status(name, jobDeploymentStatus="Initializing", rayClusterName=f"{name}-x1")
    for name, reason in (("one-abcdefgh", "ErrImagePull"), ("two-abcdefgh", "ContainerCreating")):
        labels = {"ray.io/cluster": f"{name}-x1", "trainwright/run": name}
        state = {"waiting": {"reason": reason, "message": "manifest unknown"}}
        status = {"containerStatuses": [{"name": "ray-head", "state": state}]}
        server.put("pods", {"metadata": {"name": f"{name}-head", "labels": labels}, "status": status})
    server.asked.clear()
    said = {status.run_id: status.message for status in backend.list()}
    assert said["one-abcdefgh"].startswith(
        "pod one-abcdefgh-head: ray-head: its image can't be had: ErrImagePull: manifest unknown;"
    )
    assert said["two-abcdefgh"] == said["three-abcdefgh"] == "its Ray cluster is starting"
    assert len(server.asked) == 2


def test_a_worker_that_finds_no_node_is_told_while_the_head_runs_already(server):
    backend = cluster()
    submit(backend)
    running_head(server)
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    labels = {"ray.io/cluster": f"{RUN}-x1", "ray.io/node-type": "worker"}
    server.put("pods", {"metadata": {"name": "w", "labels": labels}, "status": {"conditions": [condition]}})
    status = backend.status(RUN)
    assert (status.state, status.message) == (
        RunState.STARTING,
        "pod w has no node: Unschedulable: 0/3 nodes",
    )


def test_pods_that_a_quota_keeps_from_being_made_are_told(server):
    backend = cluster()
    submit(backend)
    server.set_status(RUN, jobDeploymentStatus="Initializing", rayClusterName="c1")
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreateHeadPod",
        "message": "exceeded quota: team",
    }
    server.put("rayclusters", {"metadata": {"name": "c1"}, "status": {"conditions": [failure]}})
    assert backend.status(RUN).message == "a pod can't be made: FailedCreateHeadPod: exceeded quota: team"


def test_what_its_queue_says_is_told(server):
    backend = cluster({"queue": "team-a"})
    submit(backend)
    server.set_status(RUN, jobDeploymentStatus="Suspended")
    condition = {
        "type": "QuotaReserved",
        "status": "False",
        "reason": "Pending",
        "message": "insufficient quota for cpu",
    }
    labels = {"kueue.x-k8s.io/job-uid": server.only("rayjobs")["metadata"]["uid"]}
    server.put(
        "workloads",
        {
            "metadata": {"name": "w", "labels": labels},
            "spec": {"queueName": "team-a"},
            "status": {"conditions": [condition]},
        },
    )
    assert backend.status(RUN).message == "waiting in queue team-a: Pending: insufficient quota for cpu"


def test_who_may_not_read_the_queue_still_gets_a_status(server):
    backend = cluster({"queue": "team-a"})
    submit(backend)
    server.set_status(RUN, jobDeploymentStatus="Suspended")
    server.denied.add(("list", "workloads"))
    status = backend.status(RUN)
    assert status.state == "pending"
    assert status.message.startswith("waiting in queue team-a; you have no right to list workloads")


def test_progress_comes_from_the_log_where_storage_is_out_of_reach(server):
    backend = cluster()
    submit(backend)
    running_head(server).append(
        '@trainwright {"event":"metrics","time":1,"step":30,"attempt":2,"values":{"loss":0.5}}'
    )
    status = backend.status(RUN)
    assert (status.state, status.step, status.metrics) == (RunState.RUNNING, 30, {"loss": 0.5})


def test_the_ledger_tells_queue_image_and_environment_apart(server):
    """Submitted at 3:04:05 by the API server's clock; the driver speaks first at 3:05:30, and ends at 3:06:00."""
    backend = cluster()
    submit(backend)
    lines = running_head(server)
    submitted = datetime.fromisoformat("2026-01-02T03:04:05Z").timestamp()
    for seconds, event, fields in (
        (85.0, "state", {"launch": 1, "state": "starting"}),
        (95.0, "stage", {"doing": "joining the cluster's Ray"}),
        (115.0, "end", {}),
    ):
        lines.append(f"@trainwright {json.dumps({'event': event, 'time': submitted + seconds, **fields})}")
    assert sdk.Run(RUN, backend).ledger().seconds["queue"] == pytest.approx(85.0)
    parts = [[part, submitted + at] for part, at in (("queue", 0.0), ("image", 30.0), ("environment", 75.0))]
    lines.insert(
        1, f"@trainwright {json.dumps({'event': 'waited', 'time': submitted + 100.0, 'parts': parts})}"
    )
    found = sdk.Run(RUN, backend).ledger()
    assert [found.seconds[part] for part in ("queue", "image", "environment")] == pytest.approx(
        [30.0, 45.0, 10.0]
    )
    assert found.wall == pytest.approx(115.0)


def test_a_launch_whose_driver_has_not_begun_waits_in_the_queue(server):
    backend = cluster()
    submit(backend)
    ledger = sdk.Run(RUN, backend).ledger()
    assert set(ledger.seconds) == {"queue"}
    assert ledger.wall == pytest.approx(time.time() - backend.status(RUN).submitted_at, abs=5)


def head_without_image(server, name=RUN):
    """Submitted at 3:04:05, it has a node half a minute later."""
    has_node = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-02T03:04:35Z"}
    labels = {"ray.io/cluster": f"{name}-x1", "ray.io/node-type": "head"}
    status = {"phase": "Pending", "conditions": [has_node]}
    server.put("pods", {"metadata": {"name": f"{name}-head", "labels": labels}, "status": status})
    server.set_status(name, jobDeploymentStatus="Initializing", rayClusterName=f"{name}-x1")


def test_a_launch_that_waits_for_its_image_says_so(server):
    backend = cluster()
    submit(backend)
    head_without_image(server)
    server.asked.clear()
    status = backend.status(RUN)
    assert len([asked for asked in server.asked if asked.path.endswith("/pods")]) == 1
    assert status.waited == (("queue", status.submitted_at), ("image", status.submitted_at + 30.0))
    ledger = sdk.Run(RUN, backend).ledger()
    assert ledger.seconds["queue"] == pytest.approx(30.0)
    assert ledger.seconds["image"] == pytest.approx(time.time() - status.submitted_at - 30.0, abs=5)


@pytest.mark.parametrize("ends_by", ["stop", "deadline"])
def test_what_a_launch_that_never_began_waited_for_is_known_to_the_next(server, ends_by):
    """Of one that is stopped the pods go at once; those of one that KubeRay ends stay for kubernetes.keep_head."""
    backend = cluster()
    submit(backend)
    head_without_image(server)
    if ends_by == "stop":
        backend.stop(RUN)
        del server.objects["pods"][f"{RUN}-head"]
        server.set_status(RUN, jobDeploymentStatus="Failed", reason="DeadlineExceeded")
    else:
        ended = {"reason": "PreRunningDeadlineExceeded", "endTime": "2026-01-02T03:14:05Z"}
        server.set_status(RUN, jobDeploymentStatus="Failed", **ended)
    ended = backend.status(RUN)
    assert ended.waited == (("queue", ended.submitted_at), ("image", ended.submitted_at + 30.0))
    ledger = sdk.Run(RUN, backend).ledger()
    assert ledger.seconds["image"] == pytest.approx(ended.ended_at - ended.submitted_at - 30.0)
    [before] = backend.resume(RUN).launches_before()
    assert (before.waited, before.ended_at) == (ended.waited, ended.ended_at)


@pytest.mark.parametrize("ends_by", ["stop", "deadline"])
def test_who_may_not_read_the_storage_sees_all_the_same_what_a_launch_without_a_driver_waited_for(
    server, ends_by, caplog
):
    """There its pod's log would be kept; one whose pods are gone without a word tells nothing."""
    backend = cluster()
    submit(backend)
    head_without_image(server)
    if ends_by == "stop":
        backend.stop(RUN)
    server.denied.add(("create", "pods"))
    del server.objects["pods"][f"{RUN}-head"]
    ended = {"reason": "PreRunningDeadlineExceeded", "endTime": "2026-01-02T03:14:05Z"}
    server.set_status(RUN, jobDeploymentStatus="Failed", **ended)
    if ends_by == "stop":
        assert set(sdk.Run(RUN, backend).ledger().seconds) == {"queue", "image"}
        assert "only what digits-abcdefgh waits for is told: " in caplog.text
        assert "no right to create pods" in caplog.text
    else:
        with pytest.raises(InfrastructureError, match="no right to create pods"):
            sdk.Run(RUN, backend).ledger()


def test_pods_that_are_gone_tell_nothing(server):
    backend = cluster()
    submit(backend)
    head_without_image(server)
    del server.objects["pods"][f"{RUN}-head"]
    server.set_status(RUN, jobDeploymentStatus="Failed", reason="PreRunningDeadlineExceeded")
    assert backend.status(RUN).waited == ()


def test_a_run_that_is_not_there(server):
    for verb in (cluster().status, cluster().stop, cluster().resume, lambda run: list(cluster().logs(run))):
        with pytest.raises(NotFoundError, match="cluster prod knows no run nobody"):
            verb("nobody")


def test_resume_is_another_rayjob_with_the_plan_of_the_first(server):
    backend = cluster()
    submit(backend)
    with pytest.raises(SpecError, match="it is pending; stop it first"):
        backend.resume(RUN)
    server.set_status(RUN, jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed")
    assert backend.resume(RUN).launch == 2
    assert server.objects["rayjobs"][f"{RUN}-2"]["spec"]["entrypoint"].endswith("--launch 2 --keep")
    assert Plan.model_validate_json(server.objects["configmaps"][f"{RUN}-2"]["data"]["plan.json"]) == wanted()
    [listed] = backend.list()
    assert listed.launch == 2


def test_a_command_killed_between_rayjob_and_config_map_leaves_a_run_that_goes_on(server):
    backend = cluster()
    submit(backend)
    server.objects["configmaps"].clear()
    assert submit(backend).state is RunState.PENDING  # the same command again stores what was missing
    server.set_status(RUN, jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed")
    backend.resume(RUN)
    del server.objects["configmaps"][f"{RUN}-2"]
    server.set_status(f"{RUN}-2", jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed")
    assert backend.resume(RUN).launch == 3
    assert Plan.model_validate_json(server.objects["configmaps"][f"{RUN}-3"]["data"]["plan.json"]) == wanted()


def test_a_run_whose_plan_was_never_stored_says_so(server):
    backend = cluster()
    submit(backend)
    server.objects["configmaps"].clear()
    assert backend.status(RUN).state is RunState.PENDING
    for _ in range(2):
        assert backend.stop(RUN).state in (RunState.STOPPING, RunState.STOPPED)
    server.set_status(RUN, jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed")
    with pytest.raises(SpecError, match="has no plan: the command that submitted it was killed"):
        backend.resume(RUN)


# -- stopping --------------------------------------------------------------------------------------------------


def test_a_graceful_stop_goes_through_the_config_map_where_only_pods_reach_the_storage(server):
    backend = cluster()
    submit(backend)
    running_head(server)
    for _ in range(2):
        assert backend.stop(RUN).state is RunState.STOPPING
    assert server.only("configmaps")["data"]["stop-1"] == ""
    assert "activeDeadlineSeconds" not in server.only("rayjobs")["spec"]


@pytest.mark.parametrize("phase", ["", "Initializing", "Suspended", "Retrying"])
def test_a_stop_before_the_driver_lives_ends_it(server, phase):
    backend = cluster()
    submit(backend)
    server.set_status(RUN, jobDeploymentStatus=phase)
    backend.stop(RUN)
    assert server.only("rayjobs")["spec"]["activeDeadlineSeconds"] == 1
    assert server.only("rayjobs")["metadata"]["annotations"][STOP].isdigit()
    assert backend.status(RUN).state in (RunState.STOPPING, RunState.STOPPED)


def test_a_stop_now_frees_the_pods_and_keeps_the_record(server):
    backend = cluster()
    submit(backend)
    running_head(server)
    assert backend.stop(RUN, now=True).state is RunState.STOPPING
    rules = server.only("rayjobs")["spec"]["deletionStrategy"]["deletionRules"]
    assert rules[0] == {
        "policy": "DeleteCluster",
        "condition": {"jobDeploymentStatus": "Failed", "ttlSeconds": 0},
    }
    server.set_status(RUN, jobDeploymentStatus="Failed", reason="DeadlineExceeded")
    assert backend.status(RUN).state is RunState.STOPPED
    assert backend.stop(RUN).state is RunState.STOPPED


def test_an_ended_run_stays_as_it_is(server):
    backend = cluster()
    submit(backend)
    server.set_status(RUN, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    assert backend.stop(RUN, now=True).state is RunState.SUCCEEDED
    assert server.count("PATCH", ".") == 0


# -- logs ------------------------------------------------------------------------------------------------------


def test_logs_of_the_driver_and_of_a_rank(server):
    backend = cluster()
    submit(backend)
    running_head(server).extend(["hello", "@rank 1 0 zero", "@rank 1 3 three", "@rank 2 3 again", "bye"])
    assert list(backend.logs(RUN)) == ["hello", "bye"]
    assert list(backend.logs(RUN, rank=3)) == ["three", "again"]


def test_logs_are_followed_through_a_dropped_stream_until_the_run_ends(server):
    backend = cluster()
    submit(backend)
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(backend.logs(RUN, follow=True)))
    reader.start()
    wait_until(lambda: server.count("GET", "/rayjobs$") > 1, "the watch")
    lines = running_head(server)
    lines.append("one")
    wait_until(lambda: server.count("GET", "/log$") >= 1, "the first stream")
    server.logs[f"{RUN}-head", "closed"] = True  # the connection ends; the container does not
    lines.append("two")
    wait_until(lambda: server.count("GET", "/log$") >= 3, "another stream")
    lines.append("three")
    server.set_status(RUN, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    reader.join(30)
    assert not reader.is_alive()
    assert seen == ["one", "two", "three"]


def test_a_follower_goes_with_the_end_that_the_driver_tells(server):
    """KubeRay's operator is away, so the RayJob runs on for it, and the container of the log is there."""
    backend = cluster()
    submit(backend)
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(backend.logs(RUN, follow=True)))
    reader.start()
    lines = running_head(server)
    lines.append("one")
    end = '@trainwright {"event":"end","time":1.0,"state":"succeeded"}'
    wait_until(lambda: server.count("GET", "/log$") >= 1, "the stream")
    lines.extend([end, "what came behind it"])
    reader.join(30)
    assert not reader.is_alive()
    assert seen == ["one", end, "what came behind it"]
    assert server.objects["rayjobs"][RUN]["status"]["jobDeploymentStatus"] == "Running"


@pytest.mark.parametrize("by", ["its driver", "an earlier head"])
def test_an_end_that_the_driver_tells_holds_before_kuberay_has_noted_it(server, by):
    backend = cluster()
    submit(backend)
    end = {"event": "end", "time": 5.0, "state": "succeeded", "reason": "completed", "message": "took all its steps",
           "metrics": {"train/loss": 1.0}}  # fmt: skip
    running_head(server).append(
        ("@earlier " if by == "an earlier head" else "") + f"@trainwright {json.dumps(end)}"
    )
    status = backend.status(RUN)
    assert (status.state, status.ended_at) == (
        (RunState.SUCCEEDED, 5.0) if by == "its driver" else (RunState.STARTING, None)
    )


WAITS = status_object(
    400, "BadRequest", 'container "run-log" in pod "x" is waiting to start: ContainerCreating'
)
NODE_GONE = status_object(
    500, "InternalError", "Get https://10.0.0.2:10250/containerLogs: dial tcp: i/o timeout"
)


def another_head(server, lines):
    """The head's pod is gone, and KubeRay made another one."""
    del server.objects["pods"][f"{RUN}-head"]
    server.logs[f"{RUN}-head", "closed"] = True
    labels = {"ray.io/cluster": f"{RUN}-x1", "ray.io/node-type": "head"}
    server.put("pods", {"metadata": {"name": "head-2", "labels": labels}, "status": {"phase": "Running"}})
    server.logs["head-2", "run-log"] = lines
    server.set_status(RUN, jobStatus="RUNNING")


def test_a_log_is_read_from_before_the_minutes_in_which_it_was_refused(server, monkeypatch):
    """By a clock that was set back by an hour meanwhile, too."""
    clock = SimpleNamespace(now=1000.0, wall=5000.0)
    clock.time, clock.monotonic = lambda: clock.wall, lambda: clock.now
    monkeypatch.setattr(moment, "time", clock)

    def sleep(seconds):
        clock.now, clock.wall = clock.now + 300.0, clock.wall - 3600.0

    submit(cluster())
    running_head(server)
    profile = kubernetes_profile(CLAIM, storage="/data")
    pods = Pods(ApiServer(profile, patience=Patience(60.0, 0.01, sleep=sleep)))
    since = moment.Moment()
    server.fail("GET", "/log$", Answer(503, b""), times=2)
    list(pods.log(f"{RUN}-head", "run-log", follow=False, since=since))
    asked = [one.query["sinceSeconds"] for one in server.asked if one.path.endswith("/log")]
    assert asked == ["30", "330", "630"]


@pytest.mark.parametrize("rank", [None, 0])
def test_logs_are_followed_through_a_replaced_head_and_afterwards_show_both(server, rank):
    backend = cluster()
    submit(backend)
    running_head(server).extend(["one", "@rank 1 0 a"])
    for answer in (WAITS, NODE_GONE):
        server.fail("GET", "/log$", answer, times=2)
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(backend.logs(RUN, follow=True, rank=rank)))
    reader.start()
    wait_until(lambda: seen, "the first head's line")
    server.fail("GET", "/head-2/log$", WAITS, times=2)
    another_head(server, ["@earlier one", "two", "@rank 1 0 a", "@rank 2 0 b"])
    wait_until(lambda: len(seen) > 1, "the second head's line")
    server.logs["head-2", "closed"] = True
    server.set_status(RUN, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    reader.join(30)
    assert seen == list(backend.logs(RUN, rank=rank)) == (["one", "two"] if rank is None else ["a", "b"])


def test_a_log_that_can_not_be_read_yet_is_none(server):
    backend = cluster(patience_seconds=0.05)
    submit(backend)
    running_head(server).append("one")
    server.fail("GET", "/log$", WAITS, times=2)
    assert list(backend.logs(RUN)) == []
    assert backend.status(RUN).state is RunState.STARTING
    assert list(backend.logs(RUN)) == ["one"]


def test_a_watch_whose_history_is_gone_begins_again(server):
    backend = cluster()
    submit(backend)
    gone = {
        "type": "ERROR",
        "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"},
    }

    def watch_fails():
        yield json.dumps(gone).encode() + b"\n"

    seen = []
    reader = threading.Thread(target=lambda: seen.extend(backend.logs(RUN, follow=True)))
    server.on_watch = [Answer(body=watch_fails()), status_object(410, "Expired", "too old"), Answer(503, b"")]
    reader.start()
    wait_until(lambda: not server.on_watch, "the failing watches")
    running_head(server).append("here")
    server.set_status(RUN, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    reader.join(30)
    assert seen == ["here"]


def test_a_log_whose_pod_is_gone(server):
    backend = cluster()
    submit(backend)
    server.set_status(RUN, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", rayClusterName="gone")
    server.denied = {("create", "pods")}
    with pytest.raises(
        InfrastructureError,
        match=r"the head pod of .* is gone, and its log, which lies in /data/runs/.*right",
    ):
        list(backend.logs(RUN))


# -- kubectl ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_reads_what_we_made_and_makes_what_we_print(server, tmp_path):
    def kubectl(*arguments):
        done = subprocess.run(
            [
                "kubectl",
                "--kubeconfig",
                tmp_path / "kubeconfig",
                "--cache-dir",
                tmp_path / "cache",
                *arguments,
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    server.token = None  # kubectl sends none over plain HTTP
    backend = cluster()
    submit(backend)
    assert json.loads(kubectl("get", "rayjob", RUN, "-o", "json"))["spec"]["jobId"] == RUN
    printed = tmp_path / "printed.json"
    printed.write_text(json.dumps(backend.render(wanted(run_id="other-abcdefgh")).body))
    kubectl("create", "--validate=false", "-f", str(printed))
    assert backend.status("other-abcdefgh").state is RunState.PENDING


# -- storage that this machine reaches -------------------------------------------------------------------------


def test_what_runs_record_is_told_in_a_status_and_in_a_list(server, tmp_path):
    storage = f"file://{tmp_path}"  # an object store to us, since it has a scheme
    backend = cluster({"storage_claim": None}, storage=storage)
    backend.submit(backend.render(plan(run_id=RUN, storage=f"{storage}/runs/{RUN}")))
    server.set_status(RUN, jobDeploymentStatus="Running", jobStatus="RUNNING", rayClusterName="c1")
    record = RunRecord(str(tmp_path / "runs" / RUN))
    record.set_state(RunStatus(run_id=RUN, state=RunState.RUNNING, step=40, attempt=2))
    for status in (backend.status(RUN), *backend.list()):
        assert (status.state, status.step, status.attempt) == (RunState.RUNNING, 40, 2)
    (tmp_path / "runs" / RUN / "control").mkdir()  # object stores have no folders
    assert backend.stop(RUN).state is RunState.STOPPING
    assert record.stop_was_asked(1)
    (tmp_path / "runs" / RUN / "launches" / "1" / "driver.log").write_text("kept\nfor later\n")
    server.objects["pods"].clear()
    server.set_status(RUN, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
    assert list(backend.logs(RUN)) == list(backend.logs(RUN, follow=True)) == ["kept", "for later"]
