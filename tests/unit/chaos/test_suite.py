"""What the suite refuses, says before it starts, and calls broken; no run is started."""

from __future__ import annotations

import json

import pytest
import yaml

from orchestrator import data, sdk
from orchestrator.chaos import suite
from orchestrator.chaos.report import FaultReport, Report, RunReport
from orchestrator.chaos.schedule import Fault
from orchestrator.chaos.suite import Asked, Suite, broken, said_before
from orchestrator.errors import SpecError
from orchestrator.spec.job import JobSpec
from orchestrator.testing import small_plan

JOB = {
    "name": "job",
    "model": {"family": "mlp", "size": "debug"},
    "data": {"train": {"kind": "builtin", "name": "iris"}},
    "training": {"max_steps": 20, "global_batch_size": 8},
    "scaling": {"workers": 2},
}


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(JOB))
    return str(path)


def asked(job, **changes):
    return Asked(**{"job": job, "kinds": ("kill", "hang"), "count": 4, **changes})


def test_a_suite_says_what_it_changes_and_lets_the_job_restart(job, tmp_path):
    made = Suite(asked(job, per_run=4), tmp_path / "chaos")
    assert made.changed == (
        "training.log_every=1",
        "recovery.max_failures=8",
        f"tracking.uri=sqlite:///{tmp_path}/chaos/mlflow.db",
    )
    assert len(made.schedule) == 4 and {fault.rank for fault in made.schedule} <= {0, 1}


def test_a_job_that_is_too_short_is_refused(job, tmp_path):
    with pytest.raises(SpecError, match="the job takes 1 steps"):
        Suite(asked(job, overrides=("training.max_steps=1",)), tmp_path)


def test_a_run_that_the_schedule_does_not_have_is_refused(job, tmp_path):
    with pytest.raises(SpecError, match="--only 5: the schedule has runs 1 to 4"):
        Suite(asked(job, only=5), tmp_path)


def test_faults_of_a_tracker_that_the_job_does_not_have_are_refused(job, tmp_path):
    with pytest.raises(SpecError, match=r"^--faults mlflow: the job tracks nothing"):
        Suite(asked(job, kinds=("mlflow",), overrides=("tracking.kind=none",)), tmp_path)


def test_a_number_of_workers_that_never_changes_is_not_resized(job, tmp_path):
    with pytest.raises(
        SpecError, match=r"^--faults resize: scaling.workers is 2, a number that never changes; give it"
    ):
        Suite(asked(job, kinds=("resize",)), tmp_path)


@pytest.mark.parametrize(("room", "most"), [(8, None), (4, None), (3, 2), (2, 2)])
def test_a_group_that_changes_gets_no_larger_than_this_machine(job, tmp_path, monkeypatch, room, most):
    monkeypatch.setattr(suite, "workers_here", lambda plan: room)
    made = Suite(
        asked(job, kinds=("resize",), overrides=("scaling.workers={min: 1, max: 4}",)), tmp_path / "chaos"
    )
    limits = [change for change in made.changed if change.startswith("scaling.workers.max")]
    assert limits == ([] if most is None else [f"scaling.workers.max={most}"])
    assert {fault.workers for fault in made.schedule} <= {1, 2, 4}
    assert "scaling.workers.stabilization_window=0" in made.changed
    assert made.said_before[0].startswith("state: a group of another size adds up in another order")


def test_a_machine_with_room_for_one_size_is_refused(job, tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "workers_here", lambda plan: 1)
    with pytest.raises(SpecError, match=r"^--faults resize: this machine has room for 1 of its workers"):
        Suite(asked(job, kinds=("resize",), overrides=("scaling.workers={min: 1, max: 4}",)), tmp_path)


def test_another_cluster_is_refused(job, tmp_path):
    profile = tmp_path / "far.yaml"
    profile.write_text(
        yaml.safe_dump({"name": "far", "kind": "ray", "address": "http://head:8265", "storage": "/shared"})
    )
    with pytest.raises(SpecError, match="chaos strikes processes of this machine, and a profile of kind ray"):
        Suite(asked(job, cluster=str(profile)), tmp_path)


def test_what_a_job_does_not_promise_is_said_before():
    plan = small_plan(2)
    assert said_before(plan, ["kill", "notice", "slow"]) == ()
    ignores = plan.job.model_copy(
        update={"recovery": plan.job.recovery.model_copy(update={"on_notice": "ignore"})}
    )
    (said,) = said_before(plan.model_copy(update={"job": ignores}), ["notice"])
    assert said == "notice: recovery.on_notice is ignore, so SIGTERM is a kill and steps are taken again"
    on_gpu = plan.job.model_copy(
        update={"scaling": plan.job.scaling.model_copy(update={"gpus_per_worker": 1})}
    )
    assert said_before(plan.model_copy(update={"job": on_gpu}), ["kill"])[0].startswith(
        "state: a GPU need not"
    )
    assert "recovery.hang_timeout, 60 s" in said_before(plan, ["hang"])[0]


FAULT = Fault(number=3, run=2, kind="kill", way="SIGKILL", rank=1, step=5, phase="batch")
HIT = FaultReport(fault=FAULT, hit=True, attempt=1, step=5, rank=1, restarts=1, replayed=2, seconds=7.0)
RUN = RunReport(
    run=2,
    run_id="run-2",
    faults=(HIT,),
    state="succeeded",
    step=20,
    launches=1,
    attempts=2,
    seconds=30.0,
    samples=160,
    samples_doubled=0,
    samples_missed=0,
    points=100,
    points_lost=0,
    points_doubled=0,
    points_other=0,
    unequal_elements=0,
    distance=0.0,
    left_behind=(),
    broken=(),
)


def changed(**fields):
    return RUN.model_copy(update=fields)


def with_fault(**fields):
    of_fault = {name: fields.pop(name) for name in ("kind", "way", "phase") if name in fields}
    return changed(faults=(HIT.model_copy(update={"fault": FAULT.model_copy(update=of_fault), **fields}),))


def test_a_run_that_lost_nothing_is_whole():
    assert broken(RUN, 20, 0.0, heeds_notice=True) == []


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (changed(step=19), "it ended at step 19, the other at step 20"),
        (changed(samples_doubled=1), "1 samples were trained on twice, 0 not at all"),
        (changed(samples_missed=2), "0 samples were trained on twice, 2 not at all"),
        (changed(points_lost=1), "metric points are not those of the other run"),
        (changed(points_doubled=1), "metric points are not those of the other run"),
        (changed(points_other=1), "metric points are not those of the other run"),
        (
            changed(unequal_elements=3, distance=1e-9),
            "3 elements of the state differ, parameters by 1.0e-09",
        ),
        (changed(unequal_elements=None, distance=None), "no final state"),
        (changed(left_behind=("process 7 (raylet)",)), "left behind: process 7 (raylet)"),
        (with_fault(kind="slow"), "fault 3, slow, made the workers start again"),
        (with_fault(kind="mlflow"), "fault 3, mlflow, made the workers start again"),
        (with_fault(kind="hang"), "fault 3: worker 1 hung, and nobody was named"),
        (with_fault(kind="hang", blamed=(0,)), "fault 3: worker 1 hung, and workers 0 was named"),
        (with_fault(blamed=(1,)), "fault 3, kill: worker 1 was named as hanging"),
        (with_fault(kind="notice"), "fault 3, notice: 2 steps were taken again"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_thing_that_does_not_hold_is_said(run, said):
    assert broken(run, 20, 0.0, heeds_notice=True) == [said]


def test_what_was_not_promised_is_not_broken():
    assert broken(with_fault(kind="notice"), 20, 0.0, heeds_notice=False) == []
    assert broken(with_fault(kind="hang", blamed=(1,)), 20, 0.0, heeds_notice=True) == []
    on_gpu = changed(unequal_elements=50, distance=1e-5)
    assert broken(on_gpu, 20, suite.STATE_TOLERANCE, heeds_notice=True) == []
    assert broken(on_gpu.model_copy(update={"distance": 1e-2}), 20, suite.STATE_TOLERANCE, heeds_notice=True)


def test_sums_and_table_are_of_all_runs():
    late = RUN.model_copy(update={"faults": (HIT.model_copy(update={"hit": False}),), "broken": ("x",)})
    report = Report(
        job="job.yaml",
        seed=1,
        faults=("kill",),
        count=2,
        per_run=1,
        changed=(),
        said_before=(),
        undisturbed_seconds=9.0,
        runs=(RUN, late),
    )
    assert (report.sums["faults"], report.sums["samples"], report.sums["steps_replayed"]) == (1, 320, 2)
    assert report.table[1].split() == ["kill", "1", "1", "2", "7.0", "7.0"]
    assert report.broken == [late]


@pytest.mark.parametrize("fraction", [0.0, 0.2])
def test_the_pure_order_is_what_the_ranks_are_given(fraction, tmp_path, monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path))
    held_out = {"eval": {"kind": "split", "fraction": fraction}} if fraction else {}
    job = {**JOB, "data": {"train": {"kind": "builtin", "name": "iris"}, **held_out, "reader": "worker"}}
    plan = sdk.make_plan(JobSpec.model_validate(job))
    prepared = data.prepare(plan)
    order = list(data.samples_by_step(prepared, seed=plan.job.training.seed, steps=20))
    for rank in range(2):
        stream = data.open_train(prepared, plan, rank=rank, world_size=2, start_step=0)
        for step in range(20):
            share = [i for micro in next(stream).micros for i in micro["sample_id"].tolist() if i >= 0]
            whole = order[step]
            assert share == (whole[: len(share)] if rank == 0 else whole[len(whole) - len(share) :])
        stream.close()
