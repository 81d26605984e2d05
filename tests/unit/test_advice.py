from dataclasses import replace

import pytest

from orchestrator.advice import Planned, advice_of
from orchestrator.ledger import Ledger

PLAN = Planned(
    checkpoint_every=100,
    evaluate_every=50,
    sample_every=40,
    reader_tasks=2,
    total_steps=10,
    reduce_dtype="fp32",
)


@pytest.mark.parametrize(
    ("seconds", "bound", "change", "gain"),
    [
        ({"step": 60.0, "data wait": 40.0}, "input", "data.reader_tasks: 4 (now 2)", 40.0),
        ({"step": 20.0, "data wait": 80.0}, "input", "data.reader_tasks: 4 (now 2)", 50.0),
        ({"step": 60.0, "checkpoint": 40.0}, "checkpoint", "checkpoint.every_steps: 200 (now 100)", 20.0),
        ({"step": 60.0, "evaluate": 40.0}, "evaluation", "training.evaluate_every: 100 (now 50)", 20.0),
        (
            {"step": 60.0, "replay": 30.0, "down": 10.0},
            "failure",
            "checkpoint.every_steps: 50 (now 100)",
            15.0,
        ),
        ({"step": 60.0, "queue": 30.0, "start: starting Ray": 10.0}, "start", "the cluster", 30.0),
        ({"step": 60.0, "start: starting Ray": 40.0}, "start", "training.max_steps: 20 (now 10)", 20.0),
        ({"step": 60.0, "samples": 40.0}, "samples", "training.sample_every: 80 (now 40)", 20.0),
        ({"step": 95.0, "data wait": 5.0}, "compute", "training.precision", 0.0),
        ({}, "compute", "training.precision", 0.0),
    ],
)
def test_the_largest_part_that_is_no_step_is_named_with_the_field_to_change(seconds, bound, change, gain):
    advice = advice_of(Ledger(seconds=seconds, steps=10, faults=2), PLAN)
    assert (advice.bound, advice.gain) == (bound, gain)
    assert advice.change.startswith(change)


@pytest.mark.parametrize(("faults", "bound"), [(0, "start"), (1, "failure")])
def test_nodes_are_waited_for_at_the_start_or_after_a_fault(faults, bound):
    advice = advice_of(Ledger(seconds={"step": 60.0, "waiting for nodes": 40.0}, faults=faults), PLAN)
    assert advice.bound == bound


def test_a_rank_that_the_others_wait_for_is_named():
    advice = advice_of(Ledger(seconds={"step": 100.0}, waited_for={0: 1.0, 1: 30.0}), PLAN)
    assert advice.bound == "straggler" and "for worker 1, whose forward passes" in advice.sentence


@pytest.mark.parametrize(
    ("reduce_dtype", "change"),
    [("fp32", "strategy.reduce_dtype: bf16"), ("bf16", "training.global_batch_size"), ("", "training.glob")],
)
def test_workers_that_wait_for_gradients_are_bound_by_communication(reduce_dtype, change):
    ledger = Ledger(seconds={"step": 90.0, "data wait": 10.0}, communication=40.0)
    advice = advice_of(ledger, replace(PLAN, reduce_dtype=reduce_dtype))
    assert (advice.bound, advice.gain) == ("communication", 20.0) and advice.change.startswith(change)
    assert "40% of the time" in advice.sentence and "(40 s of 90 s in steps)" in advice.sentence
