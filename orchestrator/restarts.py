"""What is held ready for a group's next start while it trains.

Seam: ``ray.train.v2``'s callbacks; covered by a test with real nodes, the Ray minor is held.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from orchestrator import standby


class KeepsProcessesReady(WorkerGroupCallback):
    """A process for each worker on its node, and here one for what Ray Train starts beside them."""

    def __init__(self) -> None:
        self._waiting: Counter[str] = Counter()
        """By Ray's id of the node."""
        self._group: Any = None
        """One that has none yet."""

    def after_worker_group_start(self, worker_group: Any) -> None:
        """See WorkerGroupCallback. Its processes are those that waited, where there were any."""
        self._waiting -= Counter(worker.metadata.node_id for worker in worker_group.get_workers())
        self._group = worker_group

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """See WorkerGroupCallback. Once all have taken a step: until then the node's cores are the group's."""
        beats = [getattr(each, "beat", None) for each in worker_group_status.worker_statuses.values()]
        if self._group is None or not all(beat and beat.longest_step for beat in beats):
            return
        first: dict[str, Any] = {}
        wanted: Counter[str] = Counter()
        for worker in self._group.get_workers():
            first.setdefault(worker.metadata.node_id, worker)
            wanted[worker.metadata.node_id] += 1
        for node, missing in (wanted - self._waiting).items():
            first[node].execute_async(standby.ask_for_loaded, missing)
        self._waiting |= wanted
        self._group = None
        standby.ask_for(1)
