import pytest

from orchestrator.advice import advice_of
from orchestrator.ledger import Ledger

PLAN = {"checkpoint_every": 100, "evaluate_every": 50, "reader_tasks": 2}


@pytest.mark.parametrize(
    ("seconds", "bound", "change", "gain"),
    [
        ({"step": 60.0, "data wait": 40.0}, "input", "data.reader_tasks: 4 (now 2)", 20.0),
        ({"step": 60.0, "checkpoint": 40.0}, "checkpoint", "checkpoint.every_steps: 200 (now 100)", 20.0),
        ({"step": 60.0, "evaluate": 40.0}, "evaluation", "training.evaluate_every: 100 (now 50)", 20.0),
        (
            {"step": 60.0, "replay": 30.0, "down": 10.0},
            "failure",
            "checkpoint.every_steps: 50 (now 100)",
            15.0,
        ),
        ({"step": 60.0, "queue": 30.0, "start: starting Ray": 10.0}, "start", "the cluster", 30.0),
        ({"step": 60.0, "start: starting Ray": 40.0}, "start", "training.max_steps", 0.0),
        ({"step": 95.0, "data wait": 5.0}, "compute", "training.precision", 0.0),
        ({}, "compute", "training.precision", 0.0),
    ],
)
def test_the_largest_part_that_is_no_step_is_named_with_the_field_to_change(seconds, bound, change, gain):
    advice = advice_of(Ledger(seconds=seconds, steps=10, faults=2), **PLAN)
    assert (advice.bound, advice.gain) == (bound, gain)
    assert advice.change.startswith(change)


def test_a_rank_that_the_others_wait_for_is_named():
    advice = advice_of(Ledger(seconds={"step": 100.0}, waited_for={0: 1.0, 1: 30.0}), **PLAN)
    assert advice.bound == "straggler" and "for worker 1, whose forward passes" in advice.sentence
