"""Nodes whose hardware fails again and again are left out of further attempts: counted here, acted on elsewhere. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A node of a cluster, as Ray knows it."""

    id: str
    address: str

    def __str__(self) -> str:
        return f"{self.address} (Ray node {self.id})"


class FaultyNodes:
    """How often each node's hardware failed, over all attempts of a launch."""

    def __init__(self, most: int | None) -> None:
        """
        Args:
            most: faults after which a node is left out; None where there is no other.

        """
        self.most = most
        self._of_rank: Mapping[int, Node] = {}
        self._faults: Counter[Node] = Counter()

    def place(self, of_rank: Mapping[int, Node]) -> None:
        """Note where the workers of an attempt are."""
        self._of_rank = dict(of_rank)

    def count(self, ranks: Iterable[int]) -> dict[Node, int]:
        """The nodes of ranks whose hardware failed, and how often each has now: once for each attempt, however many of its
        ranks say so.
        """
        failed = dict.fromkeys(self._of_rank[rank] for rank in ranks if rank in self._of_rank)
        self._faults.update(failed.keys())
        return {node: self._faults[node] for node in failed}

    @property
    def left_out(self) -> list[Node]:
        """Nodes that no worker is to be put on any more."""
        if self.most is None:
            return []
        return [node for node, faults in self._faults.items() if faults >= self.most]

    def without(self, labels: Mapping[str, str], id_label: str) -> dict[str, str]:
        """What Ray is to choose nodes by, if any are left out; else nothing.

        Args:
            labels: what it chooses them by in any case.
            id_label: the label that holds a node's id.

        """
        if not (ids := [node.id for node in self.left_out]):
            return {}
        return {**labels, id_label: f"!in({','.join(ids)})"}
