"""What a run takes without faults, as the ledger of another has it or the plan's size says."""

import pytest
from data_jobs import job_of, plan_of

from orchestrator.errors import SpecError
from orchestrator.ledger import Ledger
from orchestrator.planning.costs import costs_assumed, costs_measured, with_own
from orchestrator.planning.plan import MemoryEstimate

LEDGER = Ledger(
    seconds={
        "queue": 5.0,
        "start: starting Ray": 20.0,
        "start: starting the workers": 10.0,
        "step": 100.0,
        "replay": 10.0,
        "data wait": 4.0,
        "other": 6.0,
        "checkpoint": 22.0,
        "down": 8.0,
        "restore": 2.0,
    },
    steps=200,
    faults=2,
    launch=1,
)


def test_they_are_measured_in_a_run():
    costs = costs_measured(LEDGER, 20, "r")
    assert costs.step == pytest.approx(0.5) and costs.beside == pytest.approx(0.05)
    assert costs.save == pytest.approx(2.0), "220 steps with those that were taken again: 11 saves"
    assert costs.start == pytest.approx(10.0 + 5.0), "three starts took 30 s"
    assert costs.restart == pytest.approx(10.0 + 5.0), "and two faults 10 s until the next"
    assert costs.known_from == "measured in r"
    given = with_own(costs, {"save": 7.0})
    assert (given.save, given.step) == (
        7.0,
        costs.step,
    ) and given.known_from == "measured in r, save as given"


def test_a_run_without_steps_measured_nothing():
    with pytest.raises(SpecError, match="--like r: it took no step yet"):
        costs_measured(Ledger(seconds={"queue": 5.0}), 20, "r")


def test_they_are_assumed_from_what_is_saved(tmp_path):
    memory = MemoryEstimate(parameters=10**9, gradients=0, optimizer=10**9, activations=0)

    def assumed(**sections):
        plan = plan_of(job_of({"train": {"kind": "builtin", "name": "iris"}}, **sections), tmp_path)
        return costs_assumed(plan.model_copy(update={"memory": memory}), 0.5)

    background, waits = assumed(), assumed(checkpoint={"asynchronous": False})
    assert (background.save, waits.save) == (1.0, 5.0), "a copy at 2 GB/s, and a write at 0.5"
    assert (background.step, background.restart, background.known_from) == (0.5, 64.0, "assumed")
