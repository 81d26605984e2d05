"""Schedules of faults: the same seed, the same faults, in places that the job has."""

from __future__ import annotations

from typing import get_args

import pytest

from orchestrator.chaos.schedule import FIRST_STEP, WAYS, Kind, Shape, kinds_of, room_at_start, schedule_of
from orchestrator.errors import SpecError

SHAPE = Shape(workers=4, total_steps=100, checkpoint_every=10, evaluate_every=25, sizes=(1, 2, 4))
ALL = list(WAYS)


def test_every_kind_has_ways():
    assert list(get_args(Kind)) == ALL


def test_the_same_seed_gives_the_same_schedule_and_another_one_another():
    first = schedule_of(SHAPE, ALL, count=40, seed=1)
    assert first == schedule_of(SHAPE, ALL, count=40, seed=1)
    assert first != schedule_of(SHAPE, ALL, count=40, seed=2)


@pytest.mark.parametrize("per_run", [1, 3])
def test_a_fault_does_not_depend_on_how_many_there_are(per_run):
    long = schedule_of(SHAPE, ALL, count=30, per_run=per_run, seed=5)
    assert schedule_of(SHAPE, ALL, count=6, per_run=per_run, seed=5) == long[:6]


@pytest.mark.parametrize("kinds", [ALL, ["hang"], ["kill", "notice"]])
def test_each_kind_is_reached_as_often_and_in_each_of_its_ways(kinds):
    faults = schedule_of(SHAPE, kinds, count=6 * len(kinds), seed=3)
    for kind in kinds:
        of_kind = [fault for fault in faults if fault.kind == kind]
        assert len(of_kind) == 6
        assert {fault.way for fault in of_kind} == set(WAYS[kind])


@pytest.mark.parametrize("seed", range(20))
def test_a_fault_comes_where_the_job_has_such_a_place(seed):
    for fault in schedule_of(SHAPE, ALL, count=30, seed=seed):
        assert FIRST_STEP <= fault.step < SHAPE.total_steps and 0 <= fault.rank < SHAPE.workers
        assert fault.phase != "save" or fault.step % 10 == 0
        assert fault.phase != "evaluate" or fault.step % 25 == 0
        assert (fault.seconds > 0) == (fault.kind in ("slow", "disk", "mlflow"))


def test_no_phase_is_drawn_that_a_job_does_not_have():
    never = Shape(workers=1, total_steps=5, checkpoint_every=9, evaluate_every=0)
    faults = schedule_of(never, ["kill"], count=50, seed=1)
    assert {fault.phase for fault in faults} == {"batch", "update", "log"}


def test_all_phases_and_ranks_are_drawn():
    faults = schedule_of(SHAPE, ["kill"], count=100, seed=1)
    assert {fault.phase for fault in faults} == {"batch", "update", "log", "save", "evaluate"}
    assert {fault.rank for fault in faults} == {0, 1, 2, 3}


def test_the_faults_of_a_run_come_in_the_order_of_their_steps():
    faults = schedule_of(SHAPE, ALL, count=11, per_run=4, seed=1)
    assert [fault.run for fault in faults] == [1] * 4 + [2] * 4 + [3] * 3
    assert [fault.number for fault in faults] == list(range(1, 12))
    for run in (1, 2, 3):
        steps = [fault.step for fault in faults if fault.run == run]
        assert steps == sorted(steps)


@pytest.mark.parametrize("seed", range(10))
def test_a_group_grows_and_shrinks_in_turn(seed):
    """Whatever comes between; a run whose first change is to more begins with the fewest."""
    faults = schedule_of(SHAPE, ["resize", "kill"], count=24, per_run=6, seed=seed)
    begins = set()
    for run in range(1, 5):
        changes = [fault for fault in faults if fault.run == run and fault.kind == "resize"]
        room = room_at_start(changes, SHAPE.sizes)
        begins.add(room)
        for fault in changes:
            assert (fault.workers > room) == (fault.way == "more") and fault.workers != room
            assert (
                fault.workers in SHAPE.sizes
                and f"room for {fault.workers} workers, {fault.way}" in fault.sentence
            )
            room = fault.workers
    assert begins <= {1, 4}
    assert room_at_start([], SHAPE.sizes) == 4


def test_kinds_are_read_once_each():
    assert kinds_of("kill, hang,kill") == ["kill", "hang"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "kil",
            "--faults: 'kil' is no fault of kill, hang, notice, slow, disk, mlflow, resize; did you mean kill?",
        ),
        ("kill,,hang", "--faults: '' is no fault of kill, hang, notice, slow, disk, mlflow, resize"),
    ],
)
def test_an_unknown_fault_is_refused(text, said):
    with pytest.raises(SpecError) as refused:
        kinds_of(text)
    assert str(refused.value) == said


@pytest.mark.parametrize("steps", [1, FIRST_STEP])
def test_a_job_that_is_too_short_is_refused(steps):
    with pytest.raises(
        SpecError, match=rf"^training.max_steps: the job takes {steps} steps; .*: take 4 or more$"
    ):
        schedule_of(Shape(1, steps, 1, 0), ["kill"], count=1, seed=1)


@pytest.mark.parametrize(("count", "per_run"), [(0, 1), (-3, 1), (1, 0)])
def test_a_schedule_of_nothing_is_refused(count, per_run):
    with pytest.raises(SpecError, match="has at least one fault"):
        schedule_of(SHAPE, ["kill"], count=count, per_run=per_run, seed=1)
