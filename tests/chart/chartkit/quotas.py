"""Kubernetes quantities, and what an object's pods ask for."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from typing import Any

from chartkit.helm import Object

_UNITS = {"": 1, "m": Fraction(1, 1000), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_UNITS |= {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def quantity(value: Any) -> Fraction:
    """``"500m"``, ``"16Gi"`` or a number, as a number."""
    match = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(value))
    assert match, value
    return Fraction(match[1]) * _UNITS[match[2]]


def pod_demand(template: Object) -> Counter[str]:
    """What a quota counts for one pod: the sum over its containers, as ``requests.cpu`` and so on."""
    demand: Counter[str] = Counter()
    for container in template["spec"]["containers"]:
        for bound, amounts in container["resources"].items():
            for resource, amount in amounts.items():
                demand[f"{bound}.{resource}"] += quantity(amount)
    return demand


def rayjob_demand(rayjob: Object) -> Counter[str]:
    """What all pods of a RayJob ask for together."""
    cluster = rayjob["spec"]["rayClusterSpec"]
    demand = pod_demand(cluster["headGroupSpec"]["template"])
    for group in cluster["workerGroupSpecs"]:
        for name, amount in pod_demand(group["template"]).items():
            demand[name] += amount * max(group["replicas"], group.get("maxReplicas", 0))
    return demand
