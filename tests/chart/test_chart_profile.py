"""The profile in the ConfigMap is one that `trainwright --cluster` reads, and its jobs fit what the chart allows."""

from __future__ import annotations

import pytest
import yaml
from chartkit.combinations import ALL, FILES, NAMES, render_combination
from chartkit.helm import find, render
from chartkit.jobs import profile_of


@pytest.mark.parametrize("name", NAMES)
def test_profile_is_valid(name):
    profile = profile_of(render_combination(name))
    assert profile.kind == "kubernetes"
    assert profile.secrets.ray_token_secret


def test_profile_says_what_the_values_say():
    objects = render(FILES["ci/everything-values.yaml"])
    profile = profile_of(objects)
    assert profile.name == "platform"
    assert profile.image == "registry.example.com/trainwright:0.1.0"
    assert profile.ray_version == "2.60.0"
    assert profile.storage == "/mnt/trainwright"
    assert profile.mlflow == "http://platform-mlflow.training.svc:5000"
    assert profile.environment == {"NCCL_DEBUG": "WARN"}
    assert profile.secrets.model_dump() == {
        "ray_token_file": None,
        "ray_token_secret": "platform-ray-token",
        "mlflow_secret": "platform-mlflow-jobs",
        "storage_secret": "storage-credentials",
        "image_pull_secrets": ("registry",),
    }
    kubernetes = profile.kubernetes
    assert (kubernetes.namespace, kubernetes.service_account) == ("training", "platform-jobs")
    assert (kubernetes.queue, kubernetes.priority_class) == ("platform", "platform-normal")
    assert kubernetes.storage_claim == "platform-storage"
    assert not kubernetes.autoscaling
    assert profile.head.labels == {"pool": "system"}
    assert profile.head.tolerations[0].value == "system"
    assert (kubernetes.active_deadline, kubernetes.start_deadline) == (3 * 86400, 1800)
    assert (kubernetes.keep_head, kubernetes.keep_job) == (3600, 7 * 86400)
    cpu, gpu = profile.node_groups
    assert (cpu.name, cpu.cpus, cpu.memory, cpu.gpus, cpu.max) == ("cpu", 4, 16 * 2**30, 0, 4)
    assert (gpu.gpus, gpu.accelerator_type, gpu.min, gpu.max, gpu.spot) == (8, "H100", 1, 4, True)
    assert (gpu.memory, gpu.shared_memory) == (2**40, 256 * 2**30)
    assert gpu.labels == {"pool": "h100"}
    assert (gpu.tolerations[0].key, gpu.tolerations[0].effect) == ("nvidia.com/gpu", "NoSchedule")


def _of_packages(packages):
    if packages is None:
        return []
    maps = [("ConfigMap", name) for name in packages.config_maps]
    return [*maps, ("PersistentVolumeClaim", packages.claim)]


@pytest.mark.parametrize("name", NAMES)
def test_what_the_profile_names_is_rendered_or_told_to_exist(name):
    """A job must not wait for a Secret, claim, queue or ServiceAccount that nobody makes."""
    objects = render_combination(name)
    profile = profile_of(objects)
    told = yaml.safe_dump(ALL[name])
    named = [
        ("ServiceAccount", profile.kubernetes.service_account),
        ("Secret", profile.secrets.ray_token_secret),
        ("Secret", profile.secrets.mlflow_secret),
        ("Secret", profile.secrets.storage_secret),
        ("PersistentVolumeClaim", profile.kubernetes.storage_claim),
        ("LocalQueue", profile.kubernetes.queue),
        *_of_packages(profile.kubernetes.packages),
        ("PriorityClass", profile.kubernetes.priority_class),
    ]
    for kind, wanted in named:
        assert wanted is None or find(objects, kind, wanted) or f": {wanted}" in told, f"{kind} {wanted}"
