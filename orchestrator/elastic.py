"""A worker group whose size follows the room that the cluster has: smaller at once, larger after a save made for it.

Seam: ``ray.train.v2``'s scaling policy; covered by a test with real nodes, the Ray minor is held.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.controller.state import ReschedulingState, RestartingState, RunningState
from ray.train.v2._internal.execution.scaling_policy import (
    FixedScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)

from orchestrator.recovery.group_size import GroupSizes
from orchestrator.recovery.incidents import incident_of


class Room(Protocol):
    """For how many of the run's workers there is room."""

    def __call__(self, own: Mapping[str, int], *, is_checked: bool) -> int:
        """With those that the run has on each node, Ray's id -> workers; ``is_checked``: on nodes that answer."""
        ...


_LOOK_SECONDS = 1.0


class Placed(WorkerGroupCallback):
    """How many workers the newest group has on which node, until another one is started."""

    def __init__(self) -> None:
        self.on_nodes: Counter[str] = Counter()

    def after_worker_group_start(self, worker_group: Any) -> None:
        """See WorkerGroupCallback."""
        self.on_nodes = Counter(worker.metadata.node_id for worker in worker_group.get_workers())


class FollowsTheRoom(FixedScalingPolicy):
    """Gives each group the largest size that there is room for, and asks one that could be larger to save and leave."""

    def __init__(
        self,
        scaling_config: Any,
        sizes: GroupSizes,
        room: Room,
        placed: Placed,
        spares: Callable[[], Counter[str]],
        told: Callable[[int, str], None],
    ) -> None:
        """
        Args:
            scaling_config: of the largest group.
            sizes: decides.
            room: is asked for the room there is.
            placed: of the group that runs, or ran last.
            spares: how many spare workers are held on which node.
            told: is told each group's size before it starts, and why it is not larger.

        """
        super().__init__(scaling_config)
        self._sizes, self._room, self._placed, self._told = sizes, room, placed, told
        self._spares = spares
        self._failure, self._workers = "", 0
        self._looked_at = 0.0
        self._asked: Any = None
        """The group that has been asked to leave."""

    def _get_num_workers_for_resource_request(self) -> int:
        """See ScalingPolicy: an autoscaler brings nodes for the most."""
        return self._sizes.most

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """See ScalingPolicy. What the last group has taken, and what is held beside it, is given back before the next one starts."""
        self._maybe_send_resource_request()
        own = self._placed.on_nodes + self._spares()
        workers = self._sizes.at_start(self._room(own, is_checked=True))
        return ResizeDecision(workers, self.scaling_config._resources_per_worker_not_none)

    def make_decision_for_running_worker_group(
        self, worker_group_state: Any, worker_group_status: Any
    ) -> ScalingDecision:
        """See ScalingPolicy. Ray would end the group at once; ours leaves by itself, and nothing is lost."""
        self._maybe_send_resource_request()
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS and self._asked is not worker_group_state:
            self._looked_at = now
            workers = worker_group_state.num_workers
            room = self._room(self._placed.on_nodes, is_checked=False)
            larger = self._sizes.while_running(workers, room, worker_group_state.start_time, now)
            if larger is not None:
                self._asked = worker_group_state
                why = f"there is room for {larger} workers in place of {workers}"
                for worker in worker_group_state.workers:
                    worker.actor.ask_to_leave.remote(why)
        return NoopDecision()

    def on_controller_start_worker_group(
        self, *, scaling_config: Any, num_workers: int
    ) -> dict[str, str] | None:
        """See ControllerCallback. The group before is gone by now."""
        self._placed.on_nodes.clear()
        self._workers = num_workers
        self._told(num_workers, self._failure)
        return None

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """See ControllerCallback."""
        if isinstance(current_state, RestartingState | ReschedulingState):
            self._failure = incident_of(current_state.training_failed_error).message
        if isinstance(current_state, ReschedulingState):
            self._sizes.did_not_start(self._workers)
        elif isinstance(current_state, RunningState) and not isinstance(previous_state, RunningState):
            self._sizes.started()
