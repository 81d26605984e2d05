"""``doctor``: what keeps jobs from running on a cluster, one line a check, each with the mend. Takes under two minutes."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.clusters.doctor.checks import Check, check_packages
from orchestrator.clusters.doctor.kubernetes import kubernetes_checks
from orchestrator.clusters.doctor.local import local_checks
from orchestrator.clusters.doctor.ray import ray_checks
from orchestrator.spec.profile import ClusterProfile

_CHECKS = {"local": local_checks, "ray": ray_checks, "kubernetes": kubernetes_checks}
"""Profile kind -> its checks."""


def doctor(profile: ClusterProfile) -> Iterator[Check]:
    """All checks of a profile's kind, each as soon as it is known. Raises nothing that a cluster can cause."""
    yield check_packages(profile.kind)
    yield from _CHECKS[profile.kind](profile)
