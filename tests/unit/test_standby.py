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

    def __init__(self, monkeypatch):
        self.asked, self.own = [], []
        monkeypatch.setattr(restarts.standby, "ask_for", self.own.append)
        self.ready = KeepsProcessesReady()

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


LOADS = """
import os, pathlib, sys
import torch

def asked(*_, **__):
    raise AssertionError("asks for a GPU, of which it has none yet")

torch.cuda.is_available = torch.cuda.device_count = torch.cuda._lazy_init = asked
from orchestrator import standby

folder = pathlib.Path(sys.argv[1])
standby._folder, standby._prefix = lambda: folder, lambda: "trainwright-job-node-"
os.environ.update(standby.variables(2.5))
os.environ.pop("OMP_NUM_THREADS", None)
standby.load_if_asked()
print("orchestrator.worker" in sys.modules, os.environ.get("OMP_NUM_THREADS"))
(folder / "trainwright-job-node-1-0").touch()
(folder / "trainwright-job-other-1-0").touch()
standby.load_if_asked()
print("orchestrator.worker" in sys.modules, os.environ.get("OMP_NUM_THREADS"), os.listdir(folder))
print("PYTORCH_NVML_BASED_CUDA_CHECK" in os.environ)
"""


def test_a_process_loads_what_a_worker_imports_if_it_was_asked_to_and_looks_at_no_gpu(tmp_path):
    done = subprocess.run([sys.executable, "-c", LOADS, tmp_path], capture_output=True, text=True)
    # as many threads as Ray would give a worker of 2.5 CPUs
    assert done.stdout.splitlines() == ["False None", "True 2 ['trainwright-job-other-1-0']", "False"], done
