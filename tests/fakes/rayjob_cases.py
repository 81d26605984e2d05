"""Each feature of a profile for Kubernetes, as a plan and a profile, and the manifest that they make."""

import copy

from cluster_cases import kubernetes_profile, plan

from orchestrator.clusters.kubernetes.request import DIGEST, PACKAGE_IN_CONFIG_MAP, plan_to_rayjob

GPU = {"name": "gpu", "cpus": 32, "memory": "256GiB", "gpus": 8, "accelerator_type": "H100", "max": 4}
TWO_WORKERS = {"scaling": {"workers": 2}}

CASES = {
    "smallest": lambda: (plan(), kubernetes_profile(), {}),
    "gpus": lambda: (
        plan(scaling={"workers": 16, "gpus_per_worker": 1, "cpus_per_worker": 4}),
        kubernetes_profile(node_groups=[GPU]),
        {},
    ),
    "rdma": lambda: (
        plan(scaling={"workers": 8, "gpus_per_worker": 1, "cpus_per_worker": 4}),
        kubernetes_profile(
            node_groups=[
                {
                    **GPU,
                    "annotations": {"k8s.v1.cni.cncf.io/networks": "rdma"},
                    "resources": {"vpc.amazonaws.com/efa": 4},
                    "pod_labels": {"network": "fabric"},
                    "environment": {"FI_PROVIDER": "efa"},
                }
            ]
        ),
        {},
    ),
    "spread": lambda: (plan(scaling={"workers": 4, "placement": "spread"}), kubernetes_profile(), {}),
    "spot": lambda: (
        plan(**TWO_WORKERS),
        kubernetes_profile(
            node_groups=[
                {
                    "name": "spot",
                    "cpus": 3.5,
                    "memory": "16GiB",
                    "max": 2,
                    "spot": True,
                    "shared_memory": "2GiB",
                    "labels": {"cloud.google.com/gke-spot": "true"},
                    "tolerations": [
                        {
                            "key": "cloud.google.com/gke-spot",
                            "operator": "Equal",
                            "value": "true",
                            "effect": "NoSchedule",
                        }
                    ],
                }
            ],
            head={
                "cpus": 1,
                "memory": "4GiB",
                "labels": {"pool": "steady"},
                "tolerations": [{"key": "steady", "operator": "Exists"}],
            },
        ),
        {},
    ),
    "queue": lambda: (plan(), kubernetes_profile({"queue": "team-a"}), {}),
    "gang": lambda: (
        plan(**TWO_WORKERS),
        kubernetes_profile({"gang_scheduler": "volcano", "priority_class": "high"}),
        {},
    ),
    "yunikorn": lambda: (plan(), kubernetes_profile({"gang_scheduler": "yunikorn"}), {}),
    "autoscaling": lambda: (
        plan(**TWO_WORKERS),
        kubernetes_profile(
            {"autoscaling": True},
            node_groups=[{"name": "cpu", "cpus": 1, "memory": "4GiB", "min": 1, "max": 5}, GPU],
        ),
        {},
    ),
    "redis": lambda: (
        plan(),
        kubernetes_profile({"gcs_fault_tolerance": "redis", "redis_address": "redis:6379"}),
        {},
    ),
    "rocksdb": lambda: (plan(), kubernetes_profile({"gcs_fault_tolerance": "rocksdb"}), {}),
    "deadlines": lambda: (
        plan(recovery={"stop_grace": "5m"}),
        kubernetes_profile(
            {
                "active_deadline": "2h",
                "start_deadline": "10m",
                "keep_head": "5m",
                "keep_job": "1d",
                "cluster_retries": 2,
            }
        ),
        {},
    ),
    "claim": lambda: (
        plan(storage="/data/runs/digits-abcdefgh"),
        kubernetes_profile({"storage_claim": "training-data"}, storage="/data"),
        {},
    ),
    "data_claims": lambda: (
        plan(**TWO_WORKERS),
        kubernetes_profile(
            {
                "claims": [
                    {"claim": "images", "path": "/sets/images"},
                    {"claim": "scratch", "path": "/scratch", "read_only": False},
                ]
            },
            head={"cpus": 1, "memory": "4GiB", "annotations": {"note": "b"}, "pod_labels": {"team": "a"}},
        ),
        {},
    ),
    "stock_image": lambda: (
        plan(**TWO_WORKERS),
        kubernetes_profile(
            {
                "packages": {"config_maps": ["packages-1a2b", "wheel"], "key": "1a2b", "claim": "packages"},
                "user": 1000,
                "group": 100,
            }
        ),
        {},
    ),
    "stock_image_per_pod": lambda: (
        plan(),
        kubernetes_profile({"packages": {"config_maps": ["packages-1a2b"], "key": "1a2b"}}),
        {},
    ),
    "secrets": lambda: (
        plan(),
        kubernetes_profile(
            {
                "service_account": "jobs",
                "image_pull_policy": "Always",
                "labels": {"team": "a"},
                "annotations": {"note": "b"},
            },
            secrets={
                "ray_token_secret": "ray-token",
                "mlflow_secret": "mlflow",
                "storage_secret": "s3",
                "image_pull_secrets": ["registry"],
            },
        ),
        {},
    ),
    "working_dir": lambda: (
        plan(environment={"working_dir": "code", "pip": ["einops==0.8"], "env": {"A": 'b"c: {}'}}),
        kubernetes_profile(environment={"NCCL_DEBUG": "WARN", "A": "hidden by the job's"}),
        {"launch": 3, "package": PACKAGE_IN_CONFIG_MAP},
    ),
    "awkward_name": lambda: (plan(run_id="2024" + "-x" * 20 + "-abcdefgh"), kubernetes_profile(), {}),
}


def manifest(name):
    made, profile, options = CASES[name]()
    body = copy.deepcopy(plan_to_rayjob(made, profile, **options))
    # changes with every new field of a job file, and is no feature of a manifest
    assert body["metadata"]["annotations"][DIGEST] == body["spec"]["metadata"]["digest"] == made.digest
    body["metadata"]["annotations"][DIGEST] = body["spec"]["metadata"]["digest"] = "<digest>"
    return body
