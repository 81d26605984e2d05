"""Processes that wait for a restart: when they are asked for, and what one of them does before it has anything to do."""

import subprocess
import sys
import types

import pytest

from orchestrator import restarts, standby
from orchestrator.recovery.beats import Beat
from orchestrator.restarts import KeepsProcessesReady


class Worker:
    def __init__(self, node, asked):
        self.metadata = types.SimpleNamespace(node_id=node)
        self._asked = asked

    def execute_async(self, function, processes):
        assert function is standby.ask_for_loaded
        self._asked.append((self.metadata.node_id, processes))


class Controller:
    """Starts groups and polls them as Ray Train's does."""

    def __init__(self, monkeypatch, *options):
        self.asked, self.own = [], []
        monkeypatch.setattr(restarts.standby, "ask_for", self.own.append)
        self.ready = KeepsProcessesReady(*options)

    def starts(self, *nodes):
        workers = [Worker(node, self.asked) for node in nodes]
        self.ready.after_worker_group_start(types.SimpleNamespace(get_workers=lambda: workers))

    def polls(self, *beats):
        """Returns what was asked for on which node, and here."""
        self.asked.clear()
        self.own.clear()
        statuses = {rank: types.SimpleNamespace(beat=beat) for rank, beat in enumerate(beats)}
        self.ready.after_worker_group_poll_status(types.SimpleNamespace(worker_statuses=statuses))
        return self.asked, self.own


STARTS, TRAINS = Beat(attempt=1), Beat(attempt=1, longest_step=0.1)


@pytest.fixture
def controller(monkeypatch):
    return Controller(monkeypatch)


def test_as_many_as_there_are_workers_once_all_have_taken_a_step(controller):
    controller.starts("a", "a", "b")
    assert controller.polls(TRAINS, STARTS, TRAINS) == ([], [])
    assert controller.polls(TRAINS, None, TRAINS) == ([], [])
    assert controller.polls(TRAINS, TRAINS, TRAINS) == ([("a", 2), ("b", 1)], [1])
    assert controller.polls(TRAINS, TRAINS, TRAINS) == ([], [])


def test_those_that_still_wait_are_not_asked_for_again(controller):
    controller.starts("a", "a", "b")
    controller.polls(TRAINS, TRAINS, TRAINS)
    controller.starts("a", "c")
    assert controller.polls(TRAINS, TRAINS) == ([("c", 1)], [1])
    controller.starts("b")
    assert controller.polls(TRAINS) == ([("b", 1)], [1])


def test_a_first_group_that_has_trained_for_long_enough_gets_them_once_and_the_next_at_once(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(restarts.time, "monotonic", lambda: now[0])
    controller = Controller(monkeypatch, 30.0)
    controller.starts("here", "here")
    assert controller.polls(STARTS, STARTS) == ([], [])
    for now[0] in (110.0, 139.9):
        assert controller.polls(TRAINS, TRAINS) == ([], [])
    now[0] = 140.0
    assert controller.polls(TRAINS, TRAINS) == ([("here", 2)], [1])
    controller.starts("here", "here")  # which took them
    assert controller.polls(TRAINS, STARTS) == ([], [])
    assert controller.polls(TRAINS, TRAINS) == ([("here", 2)], [1])
    assert controller.polls(TRAINS, TRAINS) == ([], [])


def test_none_is_asked_for_where_memory_lacks(monkeypatch):
    asked = []
    controller = Controller(monkeypatch, 0.0, lambda processes: asked.append(processes) or len(asked) == 1)
    controller.starts("here", "here")
    assert controller.polls(TRAINS, TRAINS) == controller.polls(TRAINS, TRAINS) == ([], [])
    assert asked == [3]  # once for a group, with the one beside the workers
    controller.starts("here", "here")
    assert controller.polls(TRAINS, TRAINS) == ([("here", 2)], [1])


class Cluster:
    """Places what is asked for on nodes that are free, as Ray does."""

    def __init__(self, monkeypatch, *free):
        self.free, self.placed, self.labels = list(free), {}, []
        monkeypatch.setattr(restarts, "placement_group", self.place)
        monkeypatch.setattr(restarts, "remove_placement_group", self.placed.__delitem__)
        monkeypatch.setattr(restarts, "placement_group_table", self.table)

    def place(self, bundles, bundle_label_selector):
        assert bundles == [{"CPU": 2}]
        self.labels.append(bundle_label_selector)
        self.placed[number := len(self.labels)] = None
        return number

    def table(self, number):
        if self.placed[number] is None and self.free:
            self.placed[number] = self.free.pop(0)
        node = self.placed[number]
        return {"state": "CREATED" if node else "PENDING", "bundles_to_node_id": {0: node or ""}}


@pytest.fixture
def spare(monkeypatch):
    """Two spare workers beside a group of two, on a cluster with one free node; what was told, and where it was asked."""
    cluster, told, asked, clock = Cluster(monkeypatch, "c"), [], [], [0.0]
    monkeypatch.setattr(restarts.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(restarts.standby, "ask_for", lambda count: True)
    spares = restarts.Spares(2, {"CPU": 2}, lambda: {"zone": "x"}, beside=2, variables={})
    holds = restarts.HoldsSpares(spares, KeepsProcessesReady(), lambda *held: told.append(held))
    monkeypatch.setattr(holds, "_ask", lambda place: asked.append(cluster.placed[place]))

    def polls(*beats):
        clock[0] += 1.0
        statuses = {rank: types.SimpleNamespace(beat=beat) for rank, beat in enumerate(beats)}
        holds.after_worker_group_poll_status(types.SimpleNamespace(worker_statuses=statuses))

    return types.SimpleNamespace(holds=holds, cluster=cluster, told=told, asked=asked, polls=polls)


def test_spares_are_held_once_the_group_trains_and_a_process_waits_where_each_is(spare):
    spare.holds.after_worker_group_start(None)
    spare.polls(TRAINS, TRAINS)
    assert spare.told == [], "no group"
    spare.holds.after_worker_group_start(object())
    spare.polls(TRAINS, STARTS)
    assert spare.told == []
    for _ in range(3):
        spare.polls(TRAINS, TRAINS)
    assert (spare.told, spare.asked) == ([(0, 2), (1, 2)], ["c"])
    assert spare.cluster.labels == [[{"zone": "x"}]] * 2
    spare.cluster.free.append("d")
    spare.polls(TRAINS, TRAINS)
    assert (spare.told[-1], spare.asked, spare.holds.on_nodes()) == ((2, 2), ["c", "d"], {"c": 1, "d": 1})


def test_a_spare_that_ray_moves_is_followed_and_the_next_group_gets_them_all(spare):
    spare.holds.after_worker_group_start(object())
    spare.polls(TRAINS, TRAINS)
    spare.polls(TRAINS, TRAINS)
    spare.cluster.placed[1] = None
    spare.polls(TRAINS, TRAINS)
    assert spare.told[-1] == (0, 2), "its node is gone"
    spare.cluster.free.append("e")
    spare.polls(TRAINS, TRAINS)
    assert (spare.told[-1], spare.asked) == ((1, 2), ["c", "e"])
    spare.holds.before_worker_group_start(None)
    assert spare.cluster.placed == {} == spare.holds.on_nodes()
    assert spare.told[-1] == (0, 2)


def test_no_spare_beside_a_group_that_could_be_larger(spare):
    spare.holds.after_worker_group_start(object())
    spare.polls(TRAINS)
    spare.polls(TRAINS)
    assert (spare.told, spare.cluster.placed) == ([], {})


LOADS = """
import os, pathlib, sys
from types import SimpleNamespace
import torch

def asked(*_, **__):
    raise AssertionError("asks for a GPU, of which it has none yet")

for name in ("is_available", "device_count", "current_device", "get_device_properties", "get_device_capability", "_lazy_init"):
    setattr(torch.cuda, name, asked)
from orchestrator import standby

folder = pathlib.Path(sys.argv[1])
standby._folder, standby._prefix = lambda: folder, lambda: "trainwright-job-node-"
gpus = int(sys.argv[3])
scaling = SimpleNamespace(cpus_per_worker=2.5, gpus_per_worker=gpus)
job = SimpleNamespace(scaling=scaling, strategy=SimpleNamespace(kind=sys.argv[2]))
os.environ.update(standby.variables(SimpleNamespace(job=job)))
os.environ.pop("OMP_NUM_THREADS", None)
standby.load_if_asked()
print("orchestrator.worker" in sys.modules, os.environ.get("OMP_NUM_THREADS"))
(folder / "trainwright-job-node-1-0").touch()
(folder / "trainwright-job-other-1-0").touch()
standby.load_if_asked()
print("orchestrator.worker" in sys.modules, os.environ.get("OMP_NUM_THREADS"), os.listdir(folder))
print("PYTORCH_NVML_BASED_CUDA_CHECK" in os.environ, "deepspeed" in sys.modules)
if "deepspeed" in sys.modules:
    from orchestrator.strategies.zero import import_deepspeed
    print(import_deepspeed(torch.device("cuda", 0) if gpus else torch.device("cpu"), 2).__name__)
"""


@pytest.mark.parametrize(("strategy", "gpus"), [("ddp", 0), ("zero", 0), ("zero", 1)])
def test_a_process_loads_what_a_worker_imports_if_it_was_asked_to_and_looks_at_no_gpu(
    tmp_path, strategy, gpus
):
    """DeepSpeed too, which is for the device that the worker will have."""
    call = [sys.executable, "-c", LOADS, tmp_path, strategy, str(gpus)]
    done = subprocess.run(call, capture_output=True, text=True)
    told = [line for line in done.stdout.splitlines() if not line.startswith("[")]  # DeepSpeed's own
    # as many threads as Ray would give a worker of 2.5 CPUs
    assert told[:2] == ["False None", "True 2 ['trainwright-job-other-1-0']"], done
    assert told[2:] == (["False False"] if strategy == "ddp" else ["False True", "deepspeed"]), done
