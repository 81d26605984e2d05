"""The same verbs on a Ray cluster and on Kubernetes: from profile files, against servers over real HTTP."""

import json
import re
import sys
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import crd_schema
import pytest
import yaml
from cluster_cases import kubernetes_profile, ray_profile
from fake_kubernetes import FakeKubernetes
from fake_ray_jobs import FakeRayJobs
from terminal import Terminal as InTerminal

from orchestrator import ask, cli, sdk
from orchestrator.inference.results import Evaluation

RUN = "digits-abcdefgh"
JOB = {
    "name": "digits",
    "model": {"family": "mlp", "size": "debug"},
    "data": {"train": {"kind": "builtin", "name": "breast_cancer"}},
    "training": {"max_steps": 100},
    "tracking": {"kind": "none"},
}


class Terminal:
    """Calls the command line in this process: exit code, output, errors."""

    def __init__(self, monkeypatch, capsys):
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments):
        self._monkeypatch.setattr(sys, "argv", ["trainwright", *map(str, arguments)])
        self._capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        said = self._capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err

    def json(self, *arguments):
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def terminal(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    (tmp_path / "config" / "trainwright" / "clusters").mkdir(parents=True)
    return Terminal(monkeypatch, capsys)


@pytest.fixture(params=["ray", "kubernetes"])
def place(request, tmp_path, monkeypatch):
    """A server, its profile as a file, and what a running job looks like there."""
    if request.param == "ray":
        server = FakeRayJobs()
        (tmp_path / "storage").mkdir()
        profile = ray_profile(server.url, tmp_path / "storage")
    else:
        server = FakeKubernetes()
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        profile = kubernetes_profile({"storage_claim": "data"}, storage="/data")
    file = tmp_path / "config" / "trainwright" / "clusters" / f"{profile.name}.yaml"
    file.write_text(yaml.safe_dump(profile.model_dump(mode="json", exclude_defaults=True)))
    yield server, profile, file
    server.close()


def run_it(server, name=RUN, output=()):
    if isinstance(server, FakeRayJobs):
        server.set_job(name, status="RUNNING")
        server.output[name] = "".join(line + "\n" for line in output)
        return
    labels = {"ray.io/cluster": f"{name}-x1", "ray.io/node-type": "head"}
    server.put(
        "pods", {"metadata": {"name": f"{name}-head", "labels": labels}, "status": {"phase": "Running"}}
    )
    server.logs[f"{name}-head", "run-log"] = list(output)
    server.set_status(name, jobDeploymentStatus="Running", jobStatus="RUNNING", rayClusterName=f"{name}-x1")


def test_a_run_s_whole_life_by_its_id_alone(terminal, place):
    server, profile, _ = place
    made = terminal.json("submit", "job.yaml", "--cluster", profile.name, "--id", RUN)
    assert (made["run_id"], made["state"], made["cluster"]) == (RUN, "pending", profile.name)
    assert terminal.json("submit", "job.yaml", "--cluster", profile.name, "--id", RUN)["state"] == "pending"
    assert [run["run_id"] for run in terminal.json("list", "--cluster", profile.name)] == [RUN]
    metrics = "@trainwright " + json.dumps(
        {"event": "metrics", "time": 1.0, "step": 30, "attempt": 1, "values": {"train/loss": 0.5}}
    )
    run_it(server, output=["hello", metrics])
    status = terminal.json("status", RUN)  # where it was sent to is remembered
    assert (status["state"], status["step"], status["cluster"]) == ("running", 30, profile.name)
    told = r"hello\n\d\d:\d\d:\d\d  step 30, epoch 0.00: train/loss 0.5\n"
    assert re.fullmatch(told, terminal("logs", RUN)[1])
    assert [line["event"] for line in terminal.json("logs", RUN)] == ["text", "metrics"]
    assert terminal.json("stop", RUN)["state"] == "stopping"
    assert terminal("stop", RUN, "--now")[0] == 0
    if isinstance(server, FakeRayJobs):
        assert terminal.json("status", RUN)["state"] == "stopped"
    else:
        server.set_status(RUN, jobDeploymentStatus="Failed", reason="DeadlineExceeded")
        assert terminal.json("status", RUN)["state"] == "stopped"
    followed = terminal("logs", RUN, "--follow", "--json")[1].splitlines()
    assert [json.loads(line)["event"] for line in followed] == ["text", "metrics"]
    assert re.fullmatch(told, terminal("logs", RUN, "--follow")[1])
    assert terminal.json("resume", RUN)["launch"] == 2
    assert f"{RUN}  pending" in terminal("list", "-c", profile.name)[1].replace(" " * 3, "  ")
    assert f"trainwright list --cluster {profile.name} --all" in terminal("list", "-c", profile.name)[2]
    code, listed, noted = terminal("list", "-c", profile.name, "--all")
    assert (code, noted) == (0, "") and RUN in listed


@pytest.mark.parametrize("verb", [("predict", "--data", "new.csv", "--output", "out"), ("evaluate",)])
def test_a_model_is_asked_here_only_where_this_machine_reads_it(terminal, place, verb):
    server, profile, _ = place
    terminal.json("submit", "job.yaml", "--cluster", profile.name, "--id", RUN)
    run_it(server)
    code, _, said = terminal(verb[0], RUN, *verb[1:], "--here")
    if isinstance(server, FakeRayJobs):
        assert (code, f"error: {RUN} keeps no plan.json" in said) == (6, True)
    else:
        assert (
            code,
            f"lie in /data of cluster {profile.name}, a folder that this machine does not have" in said,
        ) == (
            4,
            True,
        )


def test_a_model_is_asked_where_its_run_was_trained(terminal, place, tmp_path):
    """By a launch of its own, of workers like those that trained, whose plan says what is asked."""
    server, profile, _ = place
    terminal.json(
        "submit",
        "job.yaml",
        "-c",
        profile.name,
        "--id",
        RUN,
        "--set",
        "scaling={workers: 2, cpus_per_worker: 3}",
    )
    place_name = ask.place_of(sdk.stored(RUN))
    assert place_name == profile.name
    asked = ask.predict(sdk.stored(RUN), "s3://b/new.csv", cluster=place_name, which="best", keep=["id"])
    plan = asked.cluster.plan(asked.id)
    assert asked.id.startswith("predict-digits-")
    assert (plan.world_size, plan.job.scaling.cpus_per_worker) == (2, 3)
    assert plan.storage == f"{profile.storage}/runs/{asked.id}"
    assert plan.question.model_dump() == {
        "kind": "predict",
        "of": {"run": RUN, "storage": f"{profile.storage}/runs/{RUN}", "which": "best", "averaged": False},
        "data": "s3://b/new.csv",
        "output": f"{plan.storage}/predictions",
        "keep": ("id",),
        "tokens": None,
        "seed": None,
        "temperature": None,
    }
    assert terminal.json("status", asked.id)["cluster"] == profile.name
    found = Evaluation(run=RUN, step=30, data="eval", samples=114, metrics={"accuracy": 0.5})
    event = {"event": "answer", "time": 1.0, "kind": "evaluate", "content": found.model_dump(mode="json")}
    measured = ask.evaluate(sdk.stored(RUN), cluster=place_name, workers=3, metrics=["f1"])
    run_it(server, measured.id, output=["@trainwright " + json.dumps(event)])
    assert ask.answer_of(measured) == found
    assert measured.cluster.plan(measured.id).world_size == 3
    terminal("stop", measured.id, "--now")
    if profile.kind == "kubernetes":
        server.set_status(measured.id, jobDeploymentStatus="Failed", reason="DeadlineExceeded")
    code, _, err = terminal("resume", measured.id, "--set", "scaling.workers=2")
    assert (code, "goes on as it was asked: leave scaling.workers=2 out" in err) == (2, True)
    if profile.kind == "kubernetes":
        body = next(one for one in server.objects["rayjobs"].values() if one["metadata"]["name"] == asked.id)
        assert crd_schema.rayjob_errors(body) == []
        (group,) = body["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        assert group["replicas"] == 1, "two workers of three CPUs on a node of eight"


def test_what_no_model_answers_is_refused_before_anything_is_sent(terminal, place):
    server, profile, _ = place
    terminal.json("submit", "job.yaml", "--cluster", profile.name, "--id", RUN)
    before = len(server.asked)
    for verb, said in (
        (("predict", "--data", "new.csv", "--ema"), "keeps no averages of its weights"),
        (("evaluate", "--ema"), "keeps no averages of its weights"),
        (("evaluate", "--metrics", "bleu"), "--metrics bleu: "),
    ):
        code, _, err = terminal(verb[0], RUN, *verb[1:])
        assert (code, said in err, err.count("\n")) == (2, True, 1)
    assert {one.method for one in server.asked[before:]} == {"GET"}


def test_a_profile_s_file_does_as_well_as_its_name(terminal, place, monkeypatch, tmp_path):
    _, profile, file = place
    assert terminal("submit", "job.yaml", "--cluster", f"./{file.relative_to(tmp_path)}", "--id", RUN)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert terminal.json("status", RUN)["cluster"] == profile.name


def test_clusters_lists_them_and_says_whether_each_answers(terminal, place):
    server, profile, _ = place
    [row] = [row for row in terminal.json("clusters") if row["name"] == profile.name]
    assert row["answers"] == "yes"
    server.token = "another"
    [row] = [row for row in terminal.json("clusters") if row["name"] == profile.name]
    assert row["answers"] == "no"
    assert "token" in row["message"] or "log in again" in row["message"]


def test_plan_prints_the_exact_request_and_asks_nobody(terminal, place):
    server, profile, _ = place
    made = terminal.json("plan", "job.yaml", "--cluster", profile.name)
    code, out, _ = terminal("plan", "job.yaml", "--cluster", profile.name)
    assert code == 0
    assert server.asked == []
    printed = yaml.safe_load(out.partition(f"request to {profile.name} ({made['request']['kind']}):\n")[2])
    if profile.kind == "ray":
        assert printed["submission_id"].startswith("digits-")
        return
    assert crd_schema.rayjob_errors(printed) == []
    run_id = printed["metadata"]["annotations"]["trainwright/run-id"]
    terminal("submit", "job.yaml", "--cluster", profile.name, "--id", run_id)
    created = server.only("rayjobs")
    assert (created["spec"], created["metadata"]["labels"]) == (
        printed["spec"],
        printed["metadata"]["labels"],
    )
    assert created["metadata"]["annotations"] == printed["metadata"]["annotations"]


def write_profile(folder, **sections):
    profile = kubernetes_profile({"storage_claim": "data"}, storage="/data", **sections)
    (folder / "prod.yaml").write_text(yaml.safe_dump(profile.model_dump(mode="json", exclude_defaults=True)))


def test_a_dashboard_that_only_pods_reach_opens_until_ctrl_c(terminal, tmp_path, monkeypatch):
    write_profile(tmp_path, mlflow="http://train-mlflow.mlops.svc:5000", secrets={"mlflow_secret": "login"})
    selected = {"app": "mlflow"}
    ports = [{"port": 5000, "targetPort": 5000}]
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    with FakeKubernetes("mlops") as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        opens = ("ui", "--cluster", "./prod.yaml")
        code, _, said = terminal(*opens)  # no such service
        assert (code, said.count("\n")) == (6, 1)
        server.put(
            "services", {"metadata": {"name": "train-mlflow"}, "spec": {"selector": selected, "ports": ports}}
        )
        server.put("pods", {"metadata": {"name": "mlflow-1", "labels": selected}, "status": ready})
        server.put(
            "secrets", {"metadata": {"name": "login"}, "data": {"username": "am9icw==", "password": "cHc="}}
        )
        server.listening["mlflow-1", 5000] = urlsplit(server.url).port  # whatever answers
        code, _, said = terminal(*opens, "--host", "0.0.0.0")
        assert (code, said.count("\n")) == (2, 1)
        assert "for this machine alone" in said
        shown = InTerminal(
            [sys.executable, "-c", "from orchestrator import cli; cli.main()", *opens], columns=300
        )
        shown.wait_for("Ctrl-C ends it)")
        link, note = re.search(r"MLflow dashboard: (\S+)   \((.*)\)", shown.shown).groups()
        assert note == "the link works once; signed in as jobs; Ctrl-C ends it"
        with pytest.raises(urllib.error.HTTPError, match="303"):
            urllib.request.build_opener(NoRedirects).open(link, timeout=30)
        shown.press("\x03")
        assert shown.exit_code() == 0
        assert "Traceback" not in shown.shown
        assert "Exception" not in shown.shown


class NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *asked):
        return None


def test_a_service_that_speaks_tls_is_refused_with_what_opens_it(terminal, tmp_path):
    write_profile(tmp_path, mlflow="https://m.mlops.svc.cluster.local")
    code, _, said = terminal("ui", "--cluster", "./prod.yaml")
    assert (code, said.count("\n")) == (4, 1)
    assert "kubectl --namespace mlops port-forward service/m :443" in said


def test_links_open_through_the_ingress_or_by_a_command(terminal, tmp_path, monkeypatch):
    inside = "http://train-mlflow.training.svc:5000"
    tracking = "@trainwright " + json.dumps(
        {"event": "tracking", "time": 1.0, "url": f"{inside}/#/experiments/1/runs/abc"}
    )
    with FakeKubernetes() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        write_profile(tmp_path, mlflow=inside)
        terminal.json("submit", "job.yaml", "--cluster", "./prod.yaml", "--id", RUN)
        run_it(server, output=[tracking])
        server.set_status(RUN, dashboardURL="digits-x1-head-svc.training.svc.cluster.local:8265")
        out = terminal("status", RUN, "--cluster", "./prod.yaml")[1]
        assert ".svc" not in out
        rows = dict(re.findall(r"^(\S+(?: \S+)?) {2,}(.*)$", out, re.MULTILINE))
        assert rows["mlflow"] == "trainwright ui --cluster prod"
        assert rows["dashboard"] == f"trainwright ui --cluster prod --ray {RUN}"
        assert "its curves" not in rows
        assert ".svc" not in terminal("logs", RUN, "--cluster", "./prod.yaml")[1]
        write_profile(tmp_path, mlflow=inside, mlflow_ui="https://mlflow.example.com/")
        out = terminal("status", RUN, "--cluster", "./prod.yaml")[1]
        assert "https://mlflow.example.com/#/experiments/1/runs/abc\n" in out
        server.asked.clear()
        assert terminal.json("ui", "--cluster", "./prod.yaml")["url"].startswith(
            "https://mlflow.example.com/#/"
        )
        assert server.asked == []
        team = {"MLFLOW_WORKSPACE": "vision"}
        write_profile(tmp_path, mlflow=inside, mlflow_ui="https://mlflow.example.com/", environment=team)
        assert terminal.json("ui", "--cluster", "./prod.yaml")["url"].endswith("&workspace=vision")


def test_ray_s_dashboard_is_asked_for_where_there_is_one(terminal, tmp_path):
    code, _, said = terminal("ui", "--ray", RUN)
    assert (code, said.count("\n")) == (2, 1)
    profile = ray_profile("http://head:8265", tmp_path)
    (tmp_path / "pool.yaml").write_text(
        yaml.safe_dump(profile.model_dump(mode="json", exclude_defaults=True))
    )
    assert terminal.json("ui", "--cluster", "./pool.yaml", "--ray", RUN) == {"url": "http://head:8265"}


@pytest.mark.parametrize("storage", ["s3://nowhere/runs", "/a-claim-s-path"])
def test_a_plan_of_bundled_data_needs_no_storage(terminal, tmp_path, monkeypatch, storage):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    clipped = [{"kind": "clip", "tensor": "features", "low": 0, "high": 9}]  # so that the data is looked at
    data = {"train": {"kind": "builtin", "name": "breast_cancer"}, "transforms": clipped}
    job = {**JOB, "data": data}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    profile = kubernetes_profile({"storage_claim": "data"}, storage=storage)
    (tmp_path / "prod.yaml").write_text(
        yaml.safe_dump(profile.model_dump(mode="json", exclude_defaults=True))
    )
    made = terminal.json("plan", "job.yaml", "--cluster", str(tmp_path / "prod.yaml"))
    assert made["plan"]["cache"] == f"{storage}/cache"
    assert list((tmp_path / "home" / "cache" / "builtin").iterdir())


def test_a_job_that_never_fits_is_refused_with_the_arithmetic(terminal, place):
    server, profile, file = place
    groups = [{"name": "cpu", "cpus": 8, "memory": "32GB", "max": 4}]
    file.write_text(
        yaml.safe_dump({**profile.model_dump(mode="json", exclude_defaults=True), "node_groups": groups})
    )
    options = ["--set", "scaling.workers=64", "--set", "training.global_batch_size=64"]
    code, _, err = terminal("submit", "job.yaml", "--cluster", profile.name, *options)
    assert code == 4
    assert err.count("\n") == 1
    assert "asked for 64 CPU" in err
    assert "largest node 8 CPU" in err
    assert "total 32 CPU" in err
    assert server.asked == []


def test_a_wrong_token_is_one_sentence(terminal, place):
    server, profile, _ = place
    server.token = "another"
    code, _, err = terminal("submit", "job.yaml", "--cluster", profile.name)
    assert code == 4
    assert err.startswith(f"error: cluster {profile.name}")
    assert err.count("\n") == 1


def test_doctor_says_what_is_wrong_and_ends_with_one(terminal, place):
    server, profile, _ = place
    server.token = "another"
    code, out, _ = terminal("doctor", "--cluster", profile.name)
    assert code == 1
    assert "fail " in out
    assert " → " in out
