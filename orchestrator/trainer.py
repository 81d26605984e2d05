"""Ray Train with its controller in the driver's process, and without the helpers that nobody here asks anything.

By itself Ray Train starts a process each for the controller, for shards of datasets (ours are read otherwise, see
``data.reading``) and for removing the placement group of a controller that died (here it goes with the driver's job).

Seam: ``ray.train.v2``; covered by the runs of the integration tests, the Ray minor is held.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import NODE_ID_LABEL_KEY

from orchestrator import events
from orchestrator.elastic import FollowsTheRoom, Placed, Room
from orchestrator.errors import ResizeError
from orchestrator.hang_watch import HangWatch, RayTrainWorker
from orchestrator.last_words import LastWords
from orchestrator.recovery.faulty_nodes import FaultyNodes, Node
from orchestrator.recovery.group_size import GroupSizes
from orchestrator.recovery.policy import RetryWhatCanHelp

_UNUSED = (DatasetsCallback, PlacementGroupCleanerCallback)


@dataclass(frozen=True)
class Elastic:
    """What decides on a group's size."""

    sizes: GroupSizes
    """The sizes that it may have."""
    room: Room
    """For how many workers there is room."""
    spares: Callable[[], Counter[str]]
    """How many spare workers are held on which node, which the next group may take."""
    told: Callable[[int, str], None]
    """Is told each group's size before it starts, and why it is not larger."""


class Trainer(DataParallelTrainer):
    """DataParallelTrainer with our failure policy in place of Ray's, which retries user errors and waits without end."""

    def __init__(
        self,
        *arguments: Any,
        max_failures: int,
        own_ray: bool,
        missing: Callable[[], str],
        nodes: FaultyNodes,
        node_labels: Mapping[str, str],
        left_out: Callable[[Sequence[Node]], None],
        hang_watch: HangWatch,
        last_words: LastWords,
        elastic: Elastic | None,
        callbacks: Sequence[WorkerGroupCallback],
        **named: Any,
    ) -> None:
        """
        Args:
            arguments: as DataParallelTrainer's, and so those in ``named``.
            max_failures: how often is tried again.
            own_ray: Ray was started by this process for this run: its processes have this one's environment, and nobody
                else takes CPUs of its node.
            missing: what the nodes lack for the workers, in a sentence; empty where they have room.
            nodes: where faults of hardware are counted.
            node_labels: of nodes that workers may be put on.
            left_out: is told the nodes that are left out, before workers start without them.
            hang_watch: ends an attempt that hangs.
            last_words: knows the processes of the newest group.
            elastic: how many workers a group gets; None where that is always the same.
            callbacks: what else goes with each group: what is held ready for the next start, and the head's notice.
            named: see ``arguments``.

        """
        super().__init__(*arguments, **named)
        self._max_failures, self._own_ray, self._missing = max_failures, own_ray, missing
        self._nodes = nodes
        self._places = _LeavesFaultyNodesOut(nodes, node_labels, left_out)
        self._hang_watch, self._last_words = hang_watch, last_words
        self._elastic, self._placed = elastic, Placed()
        self._callbacks = callbacks

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        arguments["failure_policy"] = RetryWhatCanHelp(self._max_failures, self._nodes)
        if elastic := self._elastic:
            follows = _FollowsTheRoomHere if self._own_ray else FollowsTheRoom
            arguments["scaling_policy"] = follows(
                self.scaling_config, elastic.sizes, elastic.room, self._placed, elastic.spares, elastic.told
            )
        elif self._own_ray:
            arguments["scaling_policy"] = _TakesWhatIsThere(self.scaling_config)
        controller = (_OwnController if self._own_ray else _Controller)(**arguments)
        asyncio.run(controller.run())
        return controller.get_result()

    def _create_default_callbacks(self) -> Any:
        ray_s = [each for each in super()._create_default_callbacks() if not isinstance(each, _UNUSED)]
        own = [_SaysWhatIsMissing(self._missing), self._places, self._placed, self._last_words]
        return [self._hang_watch, *ray_s, *own, *self._callbacks]


class _SaysWhatIsMissing(WorkerGroupCallback):
    """Before a start that has to wait for nodes: after one was taken away there may be none in its place yet."""

    def __init__(self, missing: Callable[[], str]) -> None:
        self._missing = missing

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """See WorkerGroupCallback."""
        if missing := self._missing():
            events.emit("waiting", message=missing)


class _LeavesFaultyNodesOut(ControllerCallback, WorkerGroupCallback):
    """Puts workers on other nodes than those whose hardware failed too often."""

    def __init__(
        self, nodes: FaultyNodes, labels: Mapping[str, str], tell: Callable[[Sequence[Node]], None]
    ) -> None:
        self._nodes, self._labels, self._tell = nodes, labels, tell

    def on_controller_start_worker_group(
        self, *, scaling_config: Any, num_workers: int
    ) -> dict[str, str] | None:
        """See ControllerCallback. The workers before have ended, so none of them writes over what is told."""
        if self._nodes.left_out:
            self._tell(self._nodes.left_out)
        return self._nodes.without(self._labels, NODE_ID_LABEL_KEY) or None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """See WorkerGroupCallback."""
        self._nodes.place(
            {
                worker.distributed_context.world_rank: Node(worker.metadata.node_id, worker.metadata.node_ip)
                for worker in worker_group.get_workers()
            }
        )


_ROOM_SECONDS = 30.0
"""How long workers that there was room for may take to get it: a node may be gone that Ray still counts."""


class _Group(WorkerGroup):
    _worker_cls = RayTrainWorker

    def __init__(
        self, train_run_context: Any, worker_group_context: Any, *arguments: Any, **named: Any
    ) -> None:
        super().__init__(train_run_context, worker_group_context, *arguments, **named)
        self._could_be_smaller = (
            worker_group_context.num_workers > train_run_context.scaling_config.min_workers
        )
        if self._could_be_smaller:
            self._worker_group_start_timeout_s: float = _ROOM_SECONDS

    def _start_impl(self, worker_group_state_builder: Any) -> None:
        """As Ray's, but it is no failure where fewer workers may find room."""
        try:
            super()._start_impl(worker_group_state_builder)
        except WorkerGroupStartupTimeoutError as error:
            if not self._could_be_smaller:
                raise
            raise ResizeError(
                f"there was room for {error.num_workers} workers, but they did not get it within {_ROOM_SECONDS:g} s"
            ) from None

    def _init_train_context_on_workers(self, workers: Any, sync_actor: Any, arguments: Any) -> None:
        """As Ray's, but the workers can't ask the controller for checkpoints: it is no actor, and has none of ours."""
        ray.get(
            [
                worker.actor.init_train_context.remote(
                    train_run_context=self._train_run_context,
                    distributed_context=worker.distributed_context,
                    synchronization_actor=sync_actor,
                    storage_context=self._storage_context,
                    worker_callbacks=self._worker_callbacks_to_propagate,
                    controller_actor=None,
                    **{name: values[number] for name, values in arguments.items()},
                )
                for number, worker in enumerate(workers)
            ]
        )


class _Controller(TrainController):
    worker_group_cls = _Group


class _OwnGroup(_Group):
    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:
        """The job's, without variables: with those, Ray would start other processes than those that wait."""
        return custom_runtime_env


class _OwnController(_Controller):
    worker_group_cls = _OwnGroup


class _AsksNobody(FixedScalingPolicy):
    """Tells nobody what the workers need, for which Ray starts a process."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Nothing to register with."""

    def _maybe_send_resource_request(self) -> None:
        """Nothing to send."""


class _TakesWhatIsThere(_AsksNobody):
    """One size."""


class _FollowsTheRoomHere(_AsksNobody, FollowsTheRoom):
    """A size that changes on this machine."""
