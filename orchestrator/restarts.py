"""What is held ready for a group's next start while it trains.

Seam: ``ray.train.v2``'s callbacks; covered by a test with real nodes, the Ray minor is held.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator import standby

_LOOK_SECONDS = 1.0


class KeepsProcessesReady(WorkerGroupCallback):
    """A process for each worker on its node, and here one for what Ray Train starts beside them."""

    def __init__(
        self, trained_seconds: float = 0.0, refused: Callable[[int], bool] = lambda processes: False
    ) -> None:
        """
        Args:
            trained_seconds: how long the first group trains before it has them. Those after it have them at once: a run that has
                lost workers may lose more, and is not so short any more.
            refused: whether a group does without so many; asked once for each group.

        """
        self._trained_seconds, self._refused = trained_seconds, refused
        self._waiting: Counter[str] = Counter()
        """By Ray's id of the node."""
        self._group: Any = None
        """One that has none yet."""
        self._trains_since: float | None = None
        self._is_first = True

    def after_worker_group_start(self, worker_group: Any) -> None:
        """See WorkerGroupCallback. Its processes are those that waited, where there were any."""
        if not self._is_first:
            self._trained_seconds = 0.0
        self._is_first = False
        self._waiting -= Counter(worker.metadata.node_id for worker in worker_group.get_workers())
        self._group, self._trains_since = worker_group, None

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """See WorkerGroupCallback. Once all have taken a step: until then the node's cores are the group's."""
        if self._group is None or not _all_train(worker_group_status):
            return
        now = time.monotonic()
        self._trains_since = now if self._trains_since is None else self._trains_since
        if now - self._trains_since < self._trained_seconds:
            return
        first: dict[str, Any] = {}
        wanted: Counter[str] = Counter()
        for worker in self._group.get_workers():
            first.setdefault(worker.metadata.node_id, worker)
            wanted[worker.metadata.node_id] += 1
        lacking = wanted - self._waiting
        if lacking and self._refused(lacking.total() + 1):
            self._group = None
            return
        for node, missing in lacking.items():
            first[node].execute_async(standby.ask_for_loaded, missing)
        self._waiting |= wanted
        self._group = None
        standby.ask_for(1)

    def also_on(self, node: str, ask: Callable[[], object]) -> None:
        """A process on another node, unless one waits there already."""
        if not self._waiting[node]:
            ask()
            self._waiting[node] += 1


@dataclass(frozen=True)
class Spares:
    """What is held beside a group."""

    count: int
    """Spare workers."""
    resources: Mapping[str, float]
    """Of each, by Ray's names."""
    labels: Callable[[], Mapping[str, str]]
    """Of nodes that workers may be put on."""
    beside: int
    """Workers of the group that has all; beside fewer none is held, since a group that could be larger comes first."""
    variables: Mapping[str, str]
    """Of the workers' environment."""


class HoldsSpares(WorkerGroupCallback):
    """Room for spare workers, which nobody else is given: let go as the next group starts, which takes it for what was lost."""

    def __init__(
        self, spares: Spares, ready: KeepsProcessesReady | None, told: Callable[[int, int], None]
    ) -> None:
        """
        Args:
            spares: what is held.
            ready: who keeps processes ready; None where nobody does.
            told: is told how many are held, of how many, whenever that changes.

        """
        self._spares, self._ready, self._told = spares, ready, told
        self._group: Any = None
        self._held: list[Any] = []
        """Placement groups of one spare worker each, placed or not: one that finds no node asks an autoscaler for it."""
        self._known: Counter[str] = Counter()
        self._looked_at = 0.0

    def on_nodes(self) -> Counter[str]:
        """How many are held on which node now, by Ray's id."""
        return Counter(node for each in self._held if (node := _node_of(each)))

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """See WorkerGroupCallback."""
        for each in self._held:
            remove_placement_group(each)
        if self._known:
            self._told(0, self._spares.count)
        self._held, self._group, self._known = [], None, Counter()

    def after_worker_group_start(self, worker_group: Any) -> None:
        """See WorkerGroupCallback."""
        self._group = worker_group

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """See WorkerGroupCallback. From the first step on, and with a look once a second at where they are."""
        if self._group is None or len(worker_group_status.worker_statuses) < self._spares.beside:
            return
        if not self._held:
            if _all_train(worker_group_status):
                self._hold()
            return
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._look()

    def _hold(self) -> None:
        labels = dict(self._spares.labels())
        self._held = [
            placement_group(
                [dict(self._spares.resources)], bundle_label_selector=[labels] if labels else None
            )
            for _ in range(self._spares.count)
        ]
        self._told(0, self._spares.count)

    def _look(self) -> None:
        found = self.on_nodes()
        if found == self._known:
            return
        self._known = found
        self._told(found.total(), self._spares.count)
        if ready := self._ready:
            for place in self._held:
                if node := _node_of(place):
                    ready.also_on(node, partial(self._ask, place))

    def _ask(self, place: Any) -> None:
        """From a process there, with the environment of the workers, which alone is given to them."""
        environment = WorkerGroup._get_worker_runtime_env({"env_vars": dict(self._spares.variables)})
        there = PlacementGroupSchedulingStrategy(placement_group=place, placement_group_bundle_index=0)
        asked = ray.remote(num_cpus=0, max_retries=0, runtime_env=environment)(standby.ask_for_loaded)
        asked.options(scheduling_strategy=there).remote(1)


def _node_of(place: Any) -> str:
    """Ray's id of the node that a placement group of one bundle has; empty where it has none."""
    table = placement_group_table(place)
    return str(table["bundles_to_node_id"][0]) if table["state"] == "CREATED" else ""


def _all_train(worker_group_status: Any) -> bool:
    """Whether every worker has taken a step."""
    beats = [getattr(each, "beat", None) for each in worker_group_status.worker_statuses.values()]
    return all(beat and beat.longest_step for beat in beats)
