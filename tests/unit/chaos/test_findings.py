"""Each thing that a run can lose is noticed where a log lacks it, or has it twice."""

from __future__ import annotations

from collections import Counter

import pytest

from orchestrator.chaos.findings import (
    points_against,
    points_of_events,
    recovery_from,
    samples_against,
)
from orchestrator.chaos.places import Hit
from orchestrator.chaos.schedule import Fault

ORDER = [[10, 11, 12, 13], [14, 15, 16, 17], [18, 19, 20]]
WHOLE = {
    (1, 0): {1: [10, 11], 2: [14, 15], 3: [18, 19]},
    (1, 1): {1: [12, 13], 2: [16, 17], 3: [20]},
}


def counted(taken):
    found = samples_against(taken, ORDER)
    return found.counted, found.doubled, found.missed


def test_a_whole_run_has_each_sample_once():
    assert counted(WHOLE) == (11, 0, 0)


def test_what_was_lost_and_taken_again_counts_once_even_on_other_workers():
    again = {
        (1, 0): {1: [10, 11], 2: [14, 15]},
        (1, 1): {1: [12, 13]},  # ended before step 2
        (2, 0): {2: [14, 15, 16, 17], 3: [18, 19, 20]},
    }
    assert counted(again) == (11, 0, 0)


@pytest.mark.parametrize(
    ("rank", "step", "samples", "doubled", "missed"),
    [
        (0, 2, [14], 0, 1),
        (0, 2, [14, 15, 15], 1, 0),
        (0, 2, [14, 14], 1, 1),
        (1, 3, [10], 1, 1),
        (1, 3, [], 0, 1),
    ],
)
def test_a_sample_that_is_missing_or_doubled_is_noticed(rank, step, samples, doubled, missed):
    wrong = {key: {**steps} for key, steps in WHOLE.items()}
    wrong[1, rank][step] = samples
    assert counted(wrong)[1:] == (doubled, missed)


def test_a_step_that_is_missing_or_too_many_is_noticed():
    assert counted({key: {s: v for s, v in steps.items() if s != 2} for key, steps in WHOLE.items()}) == (
        7,
        0,
        4,
    )
    assert counted({**WHOLE, (2, 0): {4: [10]}}) == (12, 1, 0)


def test_the_samples_of_an_attempt_that_went_on_a_step_too_late_are_missed():
    late = {(1, 0): {1: ORDER[0]}, (2, 0): {3: ORDER[2]}}
    assert counted(late) == (7, 0, 4)


POINTS = Counter({("train/loss", 1, 0.5): 1, ("train/loss", 2, 0.25): 1, ("system/step_ms", 1, 3.0): 1})


def test_the_same_points_are_the_same():
    found = points_against(POINTS + Counter(), POINTS)
    assert (found.there, found.lost, found.doubled, found.other) == (3, (), (), ())


def test_what_is_measured_in_time_may_have_other_values():
    slower = Counter({("train/loss", 1, 0.5): 1, ("train/loss", 2, 0.25): 1, ("system/step_ms", 1, 9.0): 1})
    assert points_against(slower, POINTS).other == ()


def test_a_point_that_is_lost_doubled_or_another_is_noticed():
    assert points_against(POINTS - Counter({("train/loss", 2, 0.25): 1}), POINTS).lost == (("train/loss", 2),)
    assert points_against(POINTS + Counter({("train/loss", 2, 0.25): 1}), POINTS).doubled == (
        ("train/loss", 2),
    )
    assert points_against(POINTS + Counter({("train/loss", 3, 0.1): 1}), POINTS).other == (("train/loss", 3),)
    other = Counter(
        {("train/loss", 1, 0.5): 1, ("train/loss", 2, 0.2500001): 1, ("system/step_ms", 1, 3.0): 1}
    )
    assert points_against(other, POINTS).other == (("train/loss", 2),)
    assert points_against(other, POINTS, tolerance=1e-5).other == ()


def test_not_a_number_is_like_not_a_number():
    points = Counter({("train/loss", 1, float("nan")): 1})
    assert points_against(points, Counter({("train/loss", 1, float("nan")): 1})).other == ()


def test_points_of_events_have_a_step_that_was_taken_again_once():
    told = [metrics(1.0, 1, 0.5), metrics(2.0, 2, 0.4), metrics(9.0, 2, 0.3)]
    assert points_of_events(told)[("train/loss", 2, 0.3)] == 1 and points_of_events(told).total() == 4


def metrics(time, step, loss=0.0):
    return {
        "event": "metrics",
        "time": time,
        "step": step,
        "values": {"train/loss": loss, "system/other_ms": 1.0},
    }


def attempt(time, start):
    return {"event": "attempt", "time": time, "start_step": start}


def hit_at(time, step, kind="kill"):
    fault = Fault(number=1, run=1, kind=kind, way="SIGKILL", rank=0, step=step, phase="batch")
    return Hit(fault=fault, time=time, attempt=1, rank=0, step=step, pid=1)


def test_a_fault_that_ends_an_attempt_costs_the_steps_since_the_checkpoint():
    told = [attempt(0.0, 0), *(metrics(s, s) for s in range(1, 8)), attempt(20.0, 4)]
    told += [metrics(20.0 + s, s) for s in range(5, 12)]
    found = recovery_from(hit_at(7.5, 8), told)
    assert (found.replayed, found.restarts, found.seconds) == (3, 1, 21.5)


def test_steps_that_are_taken_after_a_notice_and_not_saved_are_lost_too():
    told = [attempt(0.0, 0), *(metrics(s, s) for s in range(1, 8)), attempt(20.0, 5), metrics(30.0, 8)]
    found = recovery_from(hit_at(3.5, 4), told)
    assert (found.replayed, found.restarts) == (2, 1)


def test_steps_that_an_earlier_fault_lost_and_that_were_not_taken_again_yet_are_not_lost_once_more():
    told = [attempt(0.0, 0), *(metrics(s, s) for s in range(1, 8)), attempt(20.0, 4), metrics(21.0, 5)]
    told += [attempt(30.0, 5), *(metrics(25.0 + s, s) for s in range(6, 12))]
    found = recovery_from(hit_at(21.5, 6, "notice"), told)
    assert (found.replayed, found.restarts, found.seconds) == (0, 1, 11.5)


def test_a_fault_that_ends_nothing_holds_up_the_next_step():
    told = [attempt(0.0, 0), metrics(1.0, 1), metrics(4.0, 2), metrics(5.0, 3)]
    found = recovery_from(hit_at(1.5, 2), told)
    assert (found.replayed, found.restarts, found.seconds) == (0, 0, 3.5)


def test_what_comes_after_the_next_fault_is_that_ones():
    told = [metrics(1.0, 1), metrics(3.0, 2), attempt(9.0, 0), metrics(11.0, 3)]
    assert recovery_from(hit_at(1.5, 1), told, until=4.0).restarts == 0


def test_a_run_that_does_not_go_on_has_no_seconds():
    assert recovery_from(hit_at(2.0, 2), [metrics(1.0, 1)]).seconds is None


def test_who_was_named_is_told():
    told = [{"event": "hang", "time": 5.0, "blamed": [{"rank": 2}, {"rank": 1}]}]
    assert recovery_from(hit_at(2.0, 2, "hang"), told).blamed == (1, 2)
