"""Evaluate NetworkPolicies: may this pod open a connection to that one on that port?

Policies add up. A pod that some policy of a direction selects may do only what these policies allow in that
direction; a connection needs the source's egress and the destination's ingress to allow it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from chartkit.helm import Object


@dataclass(frozen=True)
class Pod:
    """A pod as policies see it, or, without a namespace, a host outside of the cluster."""

    labels: dict[str, str] = field(hash=False)
    namespace: str | None = "training"
    address: str = "10.1.2.3"


def outside(address: str) -> Pod:
    """A host outside of the cluster."""
    return Pod({}, None, address)


def _selects(selector: Object | None, labels: dict[str, str]) -> bool:
    selector = selector or {}
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for term in selector.get("matchExpressions") or []:
        value = labels.get(term["key"])
        holds = {
            "In": lambda v=value, t=term: v in t["values"],
            "NotIn": lambda v=value, t=term: v not in t["values"],
            "Exists": lambda v=value: v is not None,
            "DoesNotExist": lambda v=value: v is None,
        }[term["operator"]]
        if not holds():
            return False
    return True


def _is_peer(peer: Object, pod: Pod, namespace: str) -> bool:
    if block := peer.get("ipBlock"):
        address = ipaddress.ip_address(pod.address)
        inside = address in ipaddress.ip_network(block["cidr"])
        return inside and not any(address in ipaddress.ip_network(e) for e in block.get("except") or [])
    if pod.namespace is None:
        return False
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace}):
            return False
    elif pod.namespace != namespace:
        return False
    return _selects(peer.get("podSelector"), pod.labels)


def _is_port(ports: list[Object] | None, port: int, protocol: str) -> bool:
    return not ports or any(
        p.get("protocol", "TCP") == protocol and p["port"] <= port <= p.get("endPort", p["port"])
        for p in ports
    )


def _allows(policies: list[Object], direction: str, pod: Pod, other: Pod, port: int, protocol: str) -> bool:
    selecting = [
        p["spec"]
        for p in policies
        if p["metadata"]["namespace"] == pod.namespace
        and direction in p["spec"]["policyTypes"]
        and _selects(p["spec"]["podSelector"], pod.labels)
    ]
    if not selecting:
        return True
    peers = "from" if direction == "Ingress" else "to"
    return any(
        _is_port(rule.get("ports"), port, protocol)
        and (not rule.get(peers) or any(_is_peer(peer, other, pod.namespace or "") for peer in rule[peers]))
        for spec in selecting
        for rule in spec.get(direction.lower()) or []
    )


def connects(objects: list[Object], source: Pod, target: Pod, port: int, protocol: str = "TCP") -> bool:
    """Whether the policies among ``objects`` let ``source`` open a connection to ``target``."""
    policies = [o for o in objects if o["kind"] == "NetworkPolicy"]
    out = source.namespace is None or _allows(policies, "Egress", source, target, port, protocol)
    into = target.namespace is None or _allows(policies, "Ingress", target, source, port, protocol)
    return out and into
