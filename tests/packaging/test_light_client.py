"""What a person does on a laptop that only submits: with what `pip install trainwright` brings, and nothing that trains."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from cluster_cases import kubernetes_profile, plan
from fake_kubernetes import FakeKubernetes
from object_buckets import bucket_at

from orchestrator import sdk
from orchestrator.models.sizes import UNCOUNTED, count
from orchestrator.planning.make_plan import make_plan, with_counts
from orchestrator.planning.plan import DataFacts, Plan

RUN = "digits-abcdefgh"
JOB = {
    "name": "digits",
    "model": {"family": "mlp", "size": "debug"},
    "data": {"train": {"kind": "builtin", "name": "breast_cancer"}},
    "training": {"max_steps": 100},
    "tracking": {"kind": "none"},
}

CALLS = """
import importlib.metadata, io, contextlib, json, sys

KEPT = set(json.loads(sys.argv[1]))  # what is installed, by the names of its modules

class Absent:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in KEPT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
found = importlib.metadata.version
def version(name):
    if name in KEPT:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.version = version

from orchestrator import cli
from orchestrator.clusters.doctor import kubernetes

kubernetes._PODS_SECONDS = 0.0  # none comes here
answers = []
for arguments in json.loads(sys.argv[2]):
    sys.argv = ["trainwright", *arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
    answers.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(answers))
"""
ABSENT = sorted({"torch", "ray", "deepspeed", "mlflow", "ninja", "pynvml", "safetensors", "sklearn", "tokenizers", "scipy", "pandas", "transformers", "numpy", "pyarrow", "PIL", "pillow", "aiohttp"})  # fmt: skip
"""Modules of the extra ``train``, of the others, and of what comes with them."""


def called(calls, folder):
    home = {"TRAINWRIGHT_HOME": str(folder / "home"), "XDG_CONFIG_HOME": str(folder / "config")}
    done = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(ABSENT), json.dumps(calls)],
        cwd=folder,
        env={**os.environ, **home},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_light_client_needs_nothing_of_what_trains():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    of_all = {re.match(r"[\w-]+", line)[0] for line in project["dependencies"]}
    of_training = {re.match(r"[\w-]+", line)[0] for line in project["optional-dependencies"]["train"]}
    assert not of_all & of_training
    assert {"torch", "ray", "deepspeed", "mlflow", "pyarrow", "numpy", "pillow"} <= of_training


def test_a_runs_whole_life_from_a_client_without_what_trains(tmp_path, monkeypatch):
    with FakeKubernetes() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
        clusters = tmp_path / "config" / "trainwright" / "clusters"
        clusters.mkdir(parents=True)
        profile = kubernetes_profile(
            {"storage_claim": "data"}, storage="/data", mlflow="http://mlflow.example:5000"
        )
        text = yaml.safe_dump(profile.model_dump(mode="json", exclude_defaults=True))
        (clusters / "prod.yaml").write_text(text)
        pool = {"name": "pool", "kind": "ray", "address": server.url, "storage": str(tmp_path)}
        (clusters / "pool.yaml").write_text(yaml.safe_dump(pool))
        calls = {
            "version": ["version"],
            "validate": ["validate", "job.yaml"],
            "plan": ["plan", "job.yaml", "-c", "prod"],
            "submit": ["submit", "job.yaml", "-c", "prod", "--id", RUN],
            "list": ["list", "-c", "prod"],
            "status": ["status", RUN],
            "logs": ["logs", RUN],
            "stop": ["stop", RUN],
            "clusters": ["clusters"],
            "ui": ["ui", "-c", "prod", "--json"],
            "help": ["ui", "--help"],
            "init": ["init", "first.yaml", "--family", "cnn"],
            "explain": ["explain", "training"],
            "auto": ["plan", "job.yaml", "-c", "prod", "--set", "strategy=auto"],
            "fit": ["plan", "job.yaml", "-c", "prod", "--fit"],
            "run": ["run", "job.yaml"],
            "local ui": ["ui"],
            "ray": ["list", "-c", "pool"],
        }
        answers = dict(zip(calls, called(list(calls.values()), tmp_path), strict=True))
        refused = {"auto": 2, "fit": 4, "run": 4, "local ui": 4, "ray": 4}
        assert {name: answer[0] for name, answer in answers.items()} == dict.fromkeys(calls, 0) | refused, (
            answers
        )
        for name in refused:
            assert answers[name][2].count("\n") == 1, answers[name]
        for name in ("auto", "fit", "run", "local ui", "ray"):
            assert "pip install 'trainwright[train]'" in answers[name][2]
        assert "mlp, not counted yet" in answers["plan"][1]
        assert "are counted where the run begins" in answers["submit"][1]
        assert RUN in answers["list"][1]
        server.set_status(RUN, jobDeploymentStatus="Failed", reason="DeadlineExceeded")
        [resumed, doctor] = called([["resume", RUN, "--json"], ["doctor", "-c", "prod"]], tmp_path)
        assert json.loads(resumed[1])["launch"] == 2
        assert re.search(
            r"pass  packages .*; a client without ray, torch, mlflow, deepspeed, pyarrow, which pods have",
            doctor[1],
        )


def test_data_is_looked_at_where_it_is_and_the_job_is_the_same(tmp_path, monkeypatch):
    with FakeKubernetes() as server, bucket_at("s3", "light") as bucket:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        table = {"a": np.arange(40.0), "b": np.ones(40), "y": np.arange(40) % 4}
        pq.write_table(pa.table(table), tmp_path / "rows.parquet")
        data = {
            "train": {"kind": "parquet", "path": str(tmp_path / "rows.parquet")},
            "columns": {"features": ["a", "b"], "label": "y"},
            "eval": {"kind": "split"},
        }
        training = {"epochs": 2, "global_batch_size": 4, "micro_batch_size": 2}
        (tmp_path / "job.yaml").write_text(yaml.safe_dump({**JOB, "data": data, "training": training}))
        profile = kubernetes_profile(storage=bucket, mlflow="http://mlflow.example:5000")
        (tmp_path / "prod.yaml").write_text(
            yaml.safe_dump(profile.model_dump(mode="json", exclude_defaults=True))
        )
        calls = [
            ["plan", "job.yaml", "-c", "./prod.yaml", "--json"],
            ["submit", "job.yaml", "-c", "./prod.yaml", "--id", RUN],
            ["status", RUN, "-c", "./prod.yaml"],
            ["stop", RUN, "--now", "-c", "./prod.yaml"],
            ["resume", RUN, "-c", "./prod.yaml", "--set", "scaling.workers=2"],
            ["logs", RUN, "--rank", "0", "-c", "./prod.yaml"],
            ["usage", "-c", "./prod.yaml"],
            ["run", "job.yaml"],
        ]
        answers = called(calls[:4], tmp_path)
        assert [answer[0] for answer in answers] == [0, 0, 0, 0], answers
        server.set_status(RUN, jobDeploymentStatus="Failed", reason="DeadlineExceeded")
        resumed, logs, usage, run = called(calls[4:], tmp_path)
        assert (resumed[0], logs[0]) == (0, 4), (resumed, logs)
        assert (usage[0], usage[2].count("\n")) == (4, 1)
        assert "is read with pyarrow, which is not installed here (pip install pyarrow)" in logs[2]
        assert (run[0], run[2].count("\n")) == (4, 1)
        assert "install what trains: pip install 'trainwright[train]'" in run[2]
        light = Plan.model_validate(json.loads(answers[0][1])["plan"])
        full = sdk.make_plan(tmp_path / "job.yaml", profile, run_id=light.run_id)
        assert (light.digest, light.train_samples, light.parameters) == (full.digest, 36, 0)
        assert full.parameters > 0


def test_what_was_not_counted_is_counted_as_if_it_had_been():
    whole = plan()
    job = whole.job
    counts = count(job.model, job.objective)
    facts = DataFacts(train_samples=whole.train_samples, eval_samples=whole.eval_samples)
    later = make_plan(job, facts, UNCOUNTED, whole.context)
    assert (later.parameters, later.trainable_parameters, later.flops_per_sample) == (0, 0, 0)
    counted = make_plan(job, facts, counts, whole.context)
    assert with_counts(later, counts) == counted
    assert later.digest == counted.digest, "the same job, whichever client submits it"
