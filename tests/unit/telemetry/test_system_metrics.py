"""What a node's machine does, sampled beside the loop and kept in the spool."""

import io
import time

import psutil
import pytest
from data_jobs import job_of, plan_of

from orchestrator import data
from orchestrator.telemetry import system_metrics
from orchestrator.telemetry.closing import describe_run
from orchestrator.telemetry.reporter import Teller, open_reporter
from orchestrator.telemetry.spool import Part, Spool
from orchestrator.telemetry.system_metrics import Machine, NodeMetrics


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("NODE_RANK", "1")
    job = job_of({"train": {"kind": "builtin", "name": "iris"}})
    made = plan_of(job, tmp_path)
    tracking = made.job.tracking.model_copy(update={"system_metrics": True})
    resolved = made.job.model_copy(update={"tracking": tracking})
    return made.model_copy(update={"job": resolved, "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"})


def values_of(plan, part):
    return [
        (record.content["step"], record.content["values"]) for record in Spool(plan.storage).records(part)
    ]


def test_a_sample_tells_what_the_machine_tells():
    machine = Machine([])
    (before, _), values, (after, _) = used(), machine.sample(), used()
    assert sorted([before, after, values["system_memory_usage_megabytes"]])[0] > 0
    assert abs(values["system_memory_usage_megabytes"] - before) < 2000
    assert values["disk_usage_percentage"] == pytest.approx(psutil.disk_usage("/").percent, abs=5)
    assert 0 <= values["cpu_utilization_percentage"] <= 100
    assert {"network_receive_megabytes_per_second", "network_transmit_megabytes_per_second"} <= values.keys()


def used():
    memory = psutil.virtual_memory()
    return (memory.total - memory.available) / 1e6, memory.total


def test_rates_are_those_since_the_last_sample(monkeypatch):
    counters = iter(
        [{"disk_write": 0}, {"disk_write": 40_000_000}, {"disk_write": 40_000_000, "disk_read": 9}]
    )
    moments = iter([0.0, 20.0, 30.0])
    monkeypatch.setattr(system_metrics, "_counters", lambda: next(counters))
    monkeypatch.setattr(system_metrics.time, "monotonic", lambda: next(moments))
    machine = Machine([])
    assert machine.sample()["disk_write_megabytes_per_second"] == 2.0
    last = machine.sample()
    assert last["disk_write_megabytes_per_second"] == 0.0
    assert "disk_read_megabytes_per_second" not in last, "nothing to compare it with yet"


def test_the_first_rank_of_another_node_writes_its_own_part(plan):
    describe_run(plan, data={}, started_at=time.time() - 100)
    prepared = data.prepare(plan)
    with open_reporter(
        plan,
        prepared,
        teller=Teller(2, io.StringIO()),
        rank=4,
        attempt=2,
        launch=1,
        start_step=0,
        started_at=time.time(),
    ) as reporter:
        reporter.ending()
        ((step, values),) = values_of(plan, Part(2, 4))
    assert 100 <= step < 160, "seconds since the run's own start"
    assert all(name.startswith("system/node_1/") for name in values)
    assert "system/node_1/cpu_utilization_percentage" in values


def test_other_ranks_and_other_jobs_look_at_no_machine(plan, monkeypatch):
    prepared = data.prepare(plan)
    without = plan.job.tracking.model_copy(update={"system_metrics": False})
    asks_nothing = plan.model_copy(update={"job": plan.job.model_copy(update={"tracking": without})})
    for local_rank, tried in (("1", plan), ("0", asks_nothing)):
        monkeypatch.setenv("LOCAL_RANK", local_rank)
        with open_reporter(
            tried,
            prepared,
            teller=Teller(1, io.StringIO()),
            rank=4,
            attempt=1,
            launch=1,
            start_step=0,
            started_at=time.time(),
        ) as reporter:
            reporter.ending()
        assert Spool(plan.storage).parts() == []


def test_no_two_samples_have_one_step(plan, monkeypatch):
    monkeypatch.setattr(system_metrics, "_FIRST_SECONDS", 0.0)
    monkeypatch.setattr(system_metrics, "_SECONDS", 0.05)
    kept = []
    node = NodeMetrics(lambda step, values: kept.append(step), plan=plan, started_at=time.time())
    deadline = time.monotonic() + 30
    while len(kept) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    node.close()
    node.close()
    assert len(kept) >= 2 and len(set(kept)) == len(kept)


def test_a_machine_that_tells_nothing_ends_no_run(plan, monkeypatch, caplog):
    def fail(*_):
        raise PermissionError("/proc/stat")

    monkeypatch.setattr(system_metrics.Machine, "sample", fail)
    NodeMetrics(lambda *_: None, plan=plan, started_at=0.0).close()
    assert "system metrics of this node end here: /proc/stat" in caplog.text
