"""A plan of data that only the cluster reads: looked at in a pod there, as this machine would have looked."""

import fake_kubernetes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cluster_cases import kubernetes_profile
from exec_stream import run_over
from fake_kubernetes import FakeKubernetes

from orchestrator import sdk
from orchestrator.errors import DataError, InfrastructureError
from orchestrator.spec.job import JobSpec


def job_of(path, **data):
    values = {
        "name": "tables",
        "model": {"family": "mlp", "size": "debug"},
        "data": {
            "train": {"kind": "parquet", "path": str(path)},
            "columns": {"features": ["a", "b"], "label": "y"},
            "eval": {"kind": "split", "fraction": 0.25},
            **data,
        },
        "training": {"epochs": 3, "global_batch_size": 5, "micro_batch_size": 5},
        "tracking": {"kind": "none"},
    }
    return JobSpec.model_validate(values)


class Cluster:
    """Whose claims are folders that this machine has under their paths only while a pod's command runs."""

    def __init__(self, folder, server, monkeypatch):
        self.server, self.folder, self.mounted = server, folder / "claim", folder / "mnt"
        (self.folder / "data" / "set").mkdir(parents=True)
        rows = {"a": np.arange(40.0), "b": np.ones(40), "y": np.arange(40) % 4}
        pq.write_table(pa.table(rows), self.folder / "data" / "set" / "0.parquet")

        def where_it_is_mounted(*arguments):
            self.mounted.symlink_to(self.folder)
            try:
                run_over(*arguments)
            finally:
                self.mounted.unlink()

        monkeypatch.setattr(fake_kubernetes, "run_over", where_it_is_mounted)

    @property
    def profile(self):
        return kubernetes_profile({"storage_claim": "data"}, storage=str(self.mounted))


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    with FakeKubernetes() as server:
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path)))
        yield Cluster(tmp_path, server, monkeypatch)


def test_data_in_a_claim_is_planned_as_if_it_were_here(cluster, tmp_path):
    there = sdk.make_plan(job_of(cluster.mounted / "data" / "set"), cluster.profile, run_id="tables-abcdefgh")
    assert not cluster.server.objects["pods"]
    cluster.mounted.symlink_to(cluster.folder)
    here = sdk.make_plan(job_of(cluster.mounted / "data" / "set"), cluster.profile, run_id="tables-abcdefgh")
    assert (there.digest, there.train_samples, there.total_steps) == (here.digest, 30, 18)
    assert there == here
    assert len(cluster.server.commands) == 1


@pytest.mark.parametrize(
    ("path", "columns", "kind", "said"),
    [
        ("data/none", {}, DataError, r"mnt/data/none: there is no such file or folder.*pod of cluster prod"),
        ("data/set", {"label": "z"}, DataError, r"column.*z.*pod of cluster prod"),
    ],
)
def test_what_is_wrong_with_it_is_said_as_it_is_said_here(cluster, path, columns, kind, said):
    job = job_of(cluster.mounted / path, columns={"features": ["a", "b"], "label": "y", **columns})
    with pytest.raises(kind, match=said):
        sdk.make_plan(job, cluster.profile)
    assert not cluster.server.objects["pods"]


def test_a_right_that_is_missing_is_named(cluster):
    cluster.server.denied.add(("create", "pods"))
    with pytest.raises(
        InfrastructureError, match=r"no right to create pods in namespace training; .*-storage does"
    ):
        sdk.make_plan(job_of(cluster.mounted / "data" / "set"), cluster.profile)


def test_an_image_that_has_no_such_command_is_said(cluster, monkeypatch):
    monkeypatch.setattr(
        "orchestrator.clusters.shared.data_look.COMMAND", ("python", "-m", "orchestrator.no_such_part")
    )
    with pytest.raises(InfrastructureError, match=r"failed: .*No module named"):
        sdk.make_plan(job_of(cluster.mounted / "data" / "set"), cluster.profile)
    assert not cluster.server.objects["pods"]


def test_the_pod_mounts_what_those_of_the_job_do(cluster, monkeypatch):
    made = []
    cluster.server.status_of_new_pods = {"phase": "Failed", "message": "Evicted", "reason": "Evicted"}
    claims = [{"claim": "imagenet", "path": "/data/imagenet"}]
    profile = kubernetes_profile({"storage_claim": "data", "claims": claims}, storage=str(cluster.mounted))
    from orchestrator.clusters.kubernetes.pods import Pods

    create = Pods.create
    monkeypatch.setattr(Pods, "create", lambda self, body: (made.append(body), create(self, body))[1])
    with pytest.raises(InfrastructureError, match=r"mounts the claim imagenet and data does not run"):
        sdk.make_plan(job_of("/data/imagenet/train"), profile)
    mounts = made[0]["spec"]["containers"][0]["volumeMounts"]
    assert [(one["mountPath"], one.get("readOnly", False)) for one in mounts] == [
        ("/tmp", False),
        ("/data/imagenet", True),
        (str(cluster.mounted), False),
    ]
