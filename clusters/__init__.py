"""Where runs run: one visible table, each backend imported on use."""

from __future__ import annotations

from orchestrator.clusters.base import Cluster
from orchestrator.registry import load
from orchestrator.spec.profile import ClusterProfile

BACKENDS = {
    "local": "orchestrator.clusters.local.cluster:LocalCluster",
    "ray": "orchestrator.clusters.ray.cluster:RayJobsCluster",
    "kubernetes": "orchestrator.clusters.kubernetes.cluster:KubernetesCluster",
}
"""Profile kind -> backend class."""


def open_cluster(profile: ClusterProfile) -> Cluster:
    """The backend for a profile; connects to nothing yet."""
    cluster: Cluster = load(BACKENDS, profile.kind, "kind of cluster")(profile)
    return cluster
