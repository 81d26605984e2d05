"""What is decided of a launch's Ray before Ray is asked."""

import json
import socket
import stat
import sys
import types
from pathlib import Path

import pytest
from cluster_cases import plan as cluster_plan
from data_jobs import job_of, plan_of

from orchestrator import ray_session, ray_settings
from orchestrator.errors import InfrastructureError, ResourcesError, StoppedError, SupersededError
from orchestrator.ray_session import RaySession
from orchestrator.ray_settings import (
    environment_of,
    first_processes,
    object_store_bytes,
    private_cpus,
    runtime_env,
    seconds_between_polls,
    workers_here,
    write_token,
)
from orchestrator.records import RunRecord
from orchestrator.recovery.beats import Beat
from orchestrator.recovery.faulty_nodes import Node
from orchestrator.recovery.hangs import Hang, Place
from orchestrator.room import resources_per_worker, shortage, workers_beside_readers, workers_that_fit
from orchestrator.runs import RunState, RunStatus

IRIS = {"train": {"kind": "builtin", "name": "iris"}}


@pytest.fixture
def plan(tmp_path):
    def of(workers=1, **sections):
        return plan_of(job_of(IRIS, **sections), tmp_path, workers=workers)

    return of


@pytest.mark.parametrize(("workers", "seconds"), [(1, 0.2), (100, 0.2), (1000, 1.4), (10_000, 14.0)])
def test_the_controller_looks_less_often_where_there_is_more_to_look_at(workers, seconds):
    assert seconds_between_polls(workers) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("memory", "shared", "expected"),
    [
        (2**30, 2**40, 256 * 10**6),
        (8 * 10**9, 2**40, 8 * 10**8),
        (2**40, 2**40, 2 * 10**9),
        (2**40, 10**9, 5 * 10**8),
        (2**30, 10**6, 100 * 2**20),  # Ray refuses less
    ],
)
def test_the_object_store_is_a_share_of_what_the_machine_has(memory, shared, expected):
    assert object_store_bytes(memory, shared) == expected


@pytest.mark.parametrize(("workers", "cpus", "all_cpus"), [(2, 1, 3), (2, 0.5, 2), (3, 0.5, 3), (10, 0.7, 8)])
def test_a_private_instance_has_a_cpu_beside_the_workers(plan, workers, cpus, all_cpus):
    assert private_cpus(plan(workers, batch=workers, scaling={"cpus_per_worker": cpus})) == all_cpus


@pytest.mark.parametrize(("set_aside", "all_cpus"), [(0.5, 3), (2, 4), (2.5, 5)])
def test_a_read_task_finds_the_cpus_that_it_sets_aside(tmp_path, set_aside, all_cpus):
    """With fewer it would wait without end, and the run with it."""
    job = job_of({**IRIS, "reader": "ray", "reader_cpus": set_aside}, batch=2)
    assert private_cpus(plan_of(job, tmp_path, workers=2)) == all_cpus


@pytest.mark.parametrize(("reader", "processes"), [("worker", 4), ("ray", 5)])
def test_processes_that_are_needed_first_are_started_at_once(tmp_path, reader, processes):
    made = plan_of(
        job_of({**IRIS, "reader": reader}, batch=3, scaling={"cpus_per_worker": 8}), tmp_path, workers=3
    )
    assert first_processes(made) == processes


def test_the_jobs_own_variables_come_last(plan):
    made = plan(
        2,
        environment={"env": {"TOKENIZERS_PARALLELISM": "true", "MINE": "x"}},
        recovery={"hang_timeout": 77, "worker_start_timeout": 88},
    )
    environment = environment_of(made)
    assert (environment["TOKENIZERS_PARALLELISM"], environment["MINE"]) == ("true", "x")
    assert environment["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] == "770"
    assert environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "88"
    assert environment["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.2"


def test_workers_import_from_the_jobs_folder(plan, tmp_path):
    assert runtime_env(plan(environment={"env": {"A": "1"}})) == {}  # the processes that wait can be taken
    made = plan(environment={"working_dir": "code", "pip": ["a==1"], "env": {"A": "1"}})
    assert runtime_env(made) == {"pip": ["a==1"]}  # not where there is no such folder
    (tmp_path / "code").mkdir()
    assert runtime_env(made) == {"env_vars": {"PYTHONPATH": str(tmp_path / "code")}, "pip": ["a==1"]}


def test_a_token_is_new_and_read_by_its_user_alone(tmp_path):
    first, second = write_token(str(tmp_path / "a")), write_token(str(tmp_path / "b"))
    texts = [Path(path).read_text() for path in (first, second)]
    assert texts[0] != texts[1] and all(len(text) == 64 for text in texts)
    assert stat.S_IMODE((tmp_path / "a" / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    with pytest.raises(InfrastructureError, match="a can't be made: File exists"):
        write_token(str(tmp_path / "a"))


GPU_JOB = {"gpus_per_worker": 1, "cpus_per_worker": 2, "memory_per_worker": 100, "accelerator_type": "H100"}
NODE = {"CPU": 8, "GPU": 4, "memory": 1000, "accelerator_type:H100": 1}


@pytest.mark.parametrize(
    ("changed", "fit"),
    [
        ({}, 4),
        ({"CPU": 5}, 2),
        ({"GPU": 1}, 1),
        ({"memory": 250}, 2),
        ({"memory": 0}, 0),
        ({"accelerator_type:H100": 0, "accelerator_type:A100": 1}, 0),
    ],
)
def test_what_a_node_has_least_of_decides_how_many_workers_fit(plan, changed, fit):
    assert workers_that_fit({**NODE, **changed}, plan(scaling=GPU_JOB)) == fit


def test_shares_of_a_cpu_add_up(plan):
    assert workers_that_fit({"CPU": 0.3}, plan(scaling={"cpus_per_worker": 0.1})) == 3
    assert resources_per_worker(plan(scaling={"cpus_per_worker": 0.1})) == {"CPU": 0.1}


def test_a_shortage_says_what_is_asked_for_and_what_is_there(plan):
    asks = plan(4, scaling={"cpus_per_worker": 2})
    assert shortage([{"CPU": 4}, {"CPU": 5}], asks) == ""
    assert shortage([{"CPU": 4}, {"CPU": 3}], asks) == (
        "4 workers of 2 CPUs and 0 GPUs are asked for, but the cluster has room for 3:"
        " 2 nodes with 7 CPUs and 0 GPUs in all"
    )


def elastic(least=2, most=6, **sections):
    """Of 2, 3, 4 or 6 workers, and so on."""
    scaling = {"workers": {"min": least, "max": most}, **sections.pop("scaling", {})}
    return cluster_plan(training={"max_steps": 9, "global_batch_size": 24}, scaling=scaling, **sections)


def test_of_a_range_only_the_fewest_are_waited_for():
    assert shortage([{"CPU": 2}], elastic()) == ""
    assert shortage([{"CPU": 1}], elastic()).startswith("2 workers of 1 CPUs")


@pytest.mark.parametrize(
    ("cores", "gpus", "scaling", "workers"),
    [
        (1, 0, {}, 2),
        (5, 0, {}, 4),
        (64, 0, {}, 6),
        (5, 0, {"cpus_per_worker": 0.5}, 6),
        (64, 3, {"gpus_per_worker": 1}, 3),
    ],
)
def test_a_private_instance_has_as_many_workers_as_the_machine_has_room_for(
    monkeypatch, cores, gpus, scaling, workers
):
    monkeypatch.setattr(ray_settings.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(ray_settings, "free_gpus", lambda: gpus)
    assert workers_here(elastic(scaling=scaling)) == workers
    assert workers_here(elastic(scaling=scaling).with_workers(2)) == 2


@pytest.mark.parametrize(
    ("reader_cpus", "is_first", "room"),
    [(0, True, 5), (1, True, 5), (2, True, 4), (2.5, True, 4), (2.5, False, 5)],
)
def test_the_first_workers_leave_a_read_task_its_cpus(reader_cpus, is_first, room):
    data = {"train": {"kind": "builtin", "name": "iris"}, "reader": "ray", "reader_cpus": reader_cpus}
    made = elastic(data=data, scaling={"cpus_per_worker": 2})
    assert workers_beside_readers([{"CPU": 7}, {"CPU": 5}], made, is_first=is_first) == room


def nodes_with(monkeypatch, *nodes, leaving=()):
    """A cluster of nodes, each with its name, what is free there, and its labels."""
    told = [
        {"NodeID": name, "Alive": name != "dead", "Resources": {"CPU": 9}, "Labels": labels}
        for name, _, labels in nodes
    ]
    state = types.SimpleNamespace(
        state=types.SimpleNamespace(get_draining_nodes=lambda: dict.fromkeys(leaving, 0)),
        available_resources_per_node=lambda: {name: {"CPU": free} for name, free, _ in nodes if free},
    )
    private = types.SimpleNamespace(state=state)
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(nodes=lambda: told, _private=private))


def session_of(plan, private_dir=None):
    return RaySession(plan, private_dir, RunRecord(plan.storage))


def test_room_is_what_is_free_and_what_the_run_has_on_nodes_that_stay(monkeypatch):
    nodes_with(monkeypatch, ("a", 2, {}), ("b", 0, {}), ("c", 1, {}), ("dead", 5, {}), leaving=["c"])
    session = session_of(elastic())
    assert session._room({}, is_checked=False) == 2
    assert session._room({"b": 3, "c": 1, "gone": 1}, is_checked=False) == 5


def test_a_node_that_does_not_answer_has_no_room_though_ray_counts_it(monkeypatch):
    nodes_with(monkeypatch, ("a", 2, {}), ("b", 4, {}))
    with socket.create_server(("127.0.0.1", 0)) as listens, socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        for node, there in zip(sys.modules["ray"].nodes(), (listens, silent), strict=True):
            node.update(zip(("NodeManagerAddress", "NodeManagerPort"), there.getsockname(), strict=True))
        session = session_of(elastic())
        assert session._room({"b": 1}, is_checked=False) == 7
        assert session._room({"b": 1}, is_checked=True) == 2


def test_there_is_room_only_on_nodes_with_the_job_s_labels_and_whole_hardware(monkeypatch):
    nodes_with(
        monkeypatch, ("a", 2, {"zone": "x", "more": "1"}), ("b", 4, {"zone": "y"}), ("c", 8, {"zone": "x"})
    )
    session = session_of(elastic(scaling={"node_labels": {"zone": "x"}}))
    assert session._room({}, is_checked=False) == 10
    session._nodes.place({0: Node("c", "10.0.0.3")})
    for _ in range(3):
        session._nodes.count([0])
    assert session._room({}, is_checked=False) == 2


def test_a_run_s_status_says_how_many_workers_there_are_since_when_and_why(tmp_path, monkeypatch, capsys):
    made = elastic().model_copy(update={"storage": str(tmp_path)})
    record = RunRecord(str(tmp_path))
    record.set_state(RunStatus(run_id="run", state=RunState.STARTING))
    session, now = RaySession(made, None, record), [1000.0]
    monkeypatch.setattr(ray_session.time, "time", lambda: now[0])
    told = []
    for workers, failure in ((2, ""), (2, "worker 1 was lost"), (6, ""), (4, "node b was drained")):
        session._record_group(1, workers, failure)
        now[0] += 60
        told.append(record.status().group.described(now[0]))
    assert told == [
        "2 of 6 workers, since 1 min, because there is room for no more",
        "2 of 6 workers, since 2 min, because there is room for no more",
        "6 of 6 workers, since 1 min, because there is room for all",
        "4 of 6 workers, since 1 min, because node b was drained",
    ]
    assert capsys.readouterr().out.count('"group"') == 3


@pytest.mark.parametrize("tells", ["group", "nodes left out", "hang"])
def test_a_driver_that_another_has_taken_over_from_writes_no_status(tmp_path, tells):
    made = elastic().model_copy(update={"storage": str(tmp_path)})
    record = RunRecord(str(tmp_path))
    record.set_state(RunStatus(run_id="run", state=RunState.RUNNING, step=7))
    session = RaySession(made, None, record.taken_over(1))
    hang = Hang(
        seconds=60.0, beats={0: Beat(attempt=1)}, places={0: Place("a", 5)}, sights={}, heard=frozenset()
    )
    tell = {
        "group": lambda: session._record_group(1, 2, ""),
        "nodes left out": lambda: session._record_left_out(1, [Node("c", "10.0.0.3")]),
        "hang": lambda: session._keep_hang(1, hang),
    }[tells]
    tell()
    told = record.status(1)
    assert told.group or told.nodes_left_out or told.message
    record.taken_over(1)
    newer = RunStatus(run_id="run", state=RunState.STARTING, attempt=2)
    record.set_state(newer)
    session._group = None
    with pytest.raises(SupersededError):
        tell()
    assert record.status(1) == newer


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of which each look takes a second of the clock, and sees the next of the given lists of nodes."""
    now, looks = [0.0], []

    def nodes():
        seen = looks.pop(0) if len(looks) > 1 else looks[0]
        return [{"NodeID": "n", "Alive": alive, "Resources": {"CPU": cpus}} for cpus, alive in seen]

    leaving = types.SimpleNamespace(get_draining_nodes=lambda: {"another": 0})
    state = types.SimpleNamespace(state=types.SimpleNamespace(state=leaving))
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(nodes=nodes, _private=state))
    monkeypatch.setattr(ray_session.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ray_session.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return looks


def test_nodes_that_may_still_come_are_waited_for(plan, cluster, capsys):
    waits = session_of(plan(2, recovery={"worker_start_timeout": 60}))
    cluster[:] = [[(1, True)], [(1, True), (1, False)], [(1, True), (1, True)]]
    waits.wait_for_resources(lambda: False)
    assert capsys.readouterr().out.count('"waiting"') == 1


def test_a_node_that_is_drained_has_no_room(plan, cluster):
    cluster[:] = [[(1, True), (1, True)]]
    sys.modules["ray"]._private.state.state.get_draining_nodes = lambda: {"n": 5}
    with pytest.raises(ResourcesError, match="room for 0"):
        session_of(plan(2), "private").wait_for_resources(lambda: False)


def test_nodes_are_waited_for_no_longer_than_workers_may_take_to_start(plan, cluster):
    cluster[:] = [[(1, True)]]
    with pytest.raises(ResourcesError, match="room for 1"):
        session_of(plan(2, recovery={"worker_start_timeout": 5})).wait_for_resources(lambda: False)


def test_a_private_instance_can_not_grow(plan, cluster, tmp_path):
    cluster[:] = [[(1, True)], [(2, True)]]
    with pytest.raises(ResourcesError, match="room for 1"):
        session_of(plan(2), str(tmp_path)).wait_for_resources(lambda: False)


def test_a_stop_ends_the_wait(plan, cluster):
    cluster[:] = [[(1, True)]]
    with pytest.raises(StoppedError):
        session_of(plan(2)).wait_for_resources(lambda: True)


class Flaky(RaySession):
    """Ray that does not start so many times."""

    failures, left = 0, 0

    def _connect(self):
        if self.left < self.failures:
            raise RuntimeError("the raylet did not come up\nand more")

    def _leave(self):
        self.left += 1


@pytest.fixture
def pauses(monkeypatch):
    found = []
    monkeypatch.setattr(ray_session.time, "sleep", found.append)
    return found


@pytest.fixture
def flaky(plan, monkeypatch, pauses):
    monkeypatch.setattr(ray_session.os, "environ", {})
    return Flaky(made := plan(recovery={"max_failures": 2}), None, RunRecord(made.storage))


def test_a_ray_that_does_not_start_is_tried_again(flaky, capsys, pauses):
    """On a cluster after a while: a head that was lost may come back."""
    flaky.failures = 2
    with flaky:
        assert flaky.left == 2
    assert pauses == [2.0, 4.0]
    said = [json.loads(line.partition(" ")[2]) for line in capsys.readouterr().out.splitlines()]
    assert [(event["failure"], event["max_failures"], event["retry"]) for event in said] == [
        (1, 2, True),
        (2, 2, True),
    ]
    assert said[0]["message"] == "Ray did not start: the raylet did not come up"


def test_a_ray_that_never_starts_is_one_sentence(flaky):
    flaky.failures = 9
    with pytest.raises(InfrastructureError, match=r"^Ray did not start: the raylet did not come up$"), flaky:
        raise AssertionError
    assert flaky.left == 3


@pytest.mark.parametrize(("free", "lacks"), [(2 * 3 * 470_000_000, False), (2 * 3 * 470_000_000 - 1, True)])
def test_processes_wait_here_where_as_much_again_stays_free(monkeypatch, capsys, free, lacks):
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=free))
    assert ray_session._lack_memory_here(470_000_000, 3) == lacks
    said = capsys.readouterr().out
    assert said.startswith("no process waits for a restart: 3 would take ") == lacks
