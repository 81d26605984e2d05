"""What Ray Train's controller is told of a group's size, by a policy without Ray."""

import types
from collections import Counter

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.controller.state import (
    ReschedulingState,
    RestartingState,
    RunningState,
    SchedulingState,
)
from ray.train.v2._internal.execution.scaling_policy import NoopDecision, ResizeDecision
from ray.train.v2.api.exceptions import ControllerError

from orchestrator import elastic
from orchestrator.elastic import FollowsTheRoom, Placed
from orchestrator.errors import ResizeError
from orchestrator.recovery.group_size import GroupSizes


class Worker:
    def __init__(self, node):
        self.metadata = types.SimpleNamespace(node_id=node)
        self.asked = []
        self.actor = types.SimpleNamespace(ask_to_leave=types.SimpleNamespace(remote=self.asked.append))


class Controller:
    """Asks the policy as Ray Train's does."""

    def __init__(self, monkeypatch):
        self.now, self.free = 0.0, {}
        self.told, self.placed, self.spares = [], Placed(), Counter()
        self.policy = FollowsTheRoom(
            ScalingConfig(num_workers=(2, 8), resources_per_worker={"CPU": 1}),
            GroupSizes([2, 4, 8], 60.0),
            lambda own, is_checked: sum(self.free.values()) + sum(own.get(node, 0) for node in self.free),
            self.placed,
            lambda: self.spares,
            lambda *told: self.told.append(told),
        )
        monkeypatch.setattr(self.policy, "_maybe_send_resource_request", lambda: None)
        monkeypatch.setattr(elastic.time, "monotonic", lambda: self.now)
        self.group = None

    def starts(self):
        """Decide, and place the workers on the nodes in turn; what the last ones had is free again."""
        decision = self.policy.make_decision_for_non_running_worker_group()
        assert isinstance(decision, ResizeDecision)
        for worker in self.group.workers if self.group else ():
            if worker.metadata.node_id in self.free:
                self.free[worker.metadata.node_id] += 1
        self.policy.on_controller_start_worker_group(scaling_config=None, num_workers=decision.num_workers)
        places = [node for node, free in self.free.items() for _ in range(free)][: decision.num_workers]
        for node in places:
            self.free[node] -= 1
        workers = [Worker(node) for node in places]
        self.group = types.SimpleNamespace(workers=workers, num_workers=len(workers), start_time=self.now)
        self.placed.after_worker_group_start(types.SimpleNamespace(get_workers=lambda: workers))
        self.policy.after_controller_state_update(SchedulingState(decision), RunningState())
        return decision.num_workers

    def runs(self, seconds):
        """Poll each second; returns what each worker was asked."""
        for _ in range(seconds):
            self.now += 1
            assert isinstance(
                self.policy.make_decision_for_running_worker_group(self.group, None), NoopDecision
            )
        return [worker.asked for worker in self.group.workers]

    def fails(self, state, message):
        self.policy.after_controller_state_update(
            RunningState(), state(ControllerError(ResizeError(message)))
        )


@pytest.fixture
def controller(monkeypatch):
    return Controller(monkeypatch)


def test_it_starts_with_what_has_room_and_grows_once_that_has_lasted(controller):
    controller.free = {"a": 2, "b": 1}
    assert controller.starts() == 2
    assert controller.runs(100) == [[], []]
    controller.free["c"] = 1
    assert controller.runs(60) == [[], []]
    asked = ["there is room for 4 workers in place of 2"]
    assert controller.runs(1) == [asked, asked]
    assert controller.runs(100) == [asked, asked], "it is asked once"
    controller.fails(RestartingState, "there is room")
    assert controller.starts() == 4
    assert controller.told == [(2, ""), (4, "there is room")]


def test_a_node_that_goes_takes_its_workers_and_the_rest_goes_on(controller):
    controller.free = {"a": 2, "b": 4, "c": 2}
    assert controller.starts() == 8
    del controller.free["c"]
    controller.fails(RestartingState, "worker 6 was lost")
    assert controller.starts() == 4
    assert controller.told[-1] == (4, "worker 6 was lost")
    assert controller.runs(200) == [[]] * 4


def test_what_is_held_for_spare_workers_is_the_next_group_s_and_not_this_one_s(controller):
    controller.free = {"a": 4, "b": 0}
    controller.spares = Counter(b=4)
    assert controller.starts() == 8
    controller.spares = Counter(b=2)
    controller.group.num_workers = 4
    assert controller.runs(200)[0] == []


def test_below_the_least_the_least_waits_for_its_nodes(controller):
    controller.free = {"a": 1}
    decision = controller.policy.make_decision_for_non_running_worker_group()
    assert decision.num_workers == 2
    assert controller.policy._get_num_workers_for_resource_request() == 8


def test_workers_that_do_not_get_the_room_that_was_seen_are_fewer_next_time(controller):
    controller.free = {"a": 4}
    controller.policy.on_controller_start_worker_group(scaling_config=None, num_workers=4)
    controller.fails(ReschedulingState, "they did not get it")
    assert controller.starts() == 2
    assert controller.told[-1] == (2, "they did not get it")
