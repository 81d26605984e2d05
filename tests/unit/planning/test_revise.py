"""A run that has begun goes on elsewhere, and trains the same."""

import pytest

from orchestrator.errors import SpecError
from orchestrator.models.sizes import Counts
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, ResolvedJob, RunContext
from orchestrator.planning.revise import revise
from orchestrator.spec.load import load_spec

COUNTS = Counts(1000, 10, 1, (("model/weight", 1000),))


@pytest.fixture
def plan():
    job = ResolvedJob.model_validate(
        {
            "name": "job",
            "model": {"family": "mlp", "in_features": 3, "outputs": 2},
            "objective": {"kind": "classification"},
            "data": {
                "train": {"kind": "builtin", "name": "iris"},
                "eval": {"kind": "split", "fraction": 0.2},
            },
            "training": {"epochs": 3, "global_batch_size": 24},
            "scaling": {"workers": 4},
        }
    )
    facts = DataFacts(train_samples=120, eval_samples=30)
    context = RunContext(
        version="1",
        run_id="job-abcdefgh",
        base_dir="/work",
        storage="/s/runs/job-abcdefgh",
        cache="/s/cache",
        tracking_uri="sqlite:////s/mlflow.db",
        git_commit="abc",
    )
    return make_plan(job, facts, COUNTS, context)


def revised(plan, *overrides):
    job = load_spec(plan.job.model_dump(mode="json"), overrides)
    return revise(plan, job, COUNTS, version="2")


def test_nothing_but_what_was_asked_for_changes(plan):
    assert revised(plan) == plan.model_copy(update={"version": "2"})


def test_other_workers_take_the_same_global_batches(plan):
    new = revised(plan, "scaling.workers=3", "training.micro_batch_size=4")
    assert (new.world_size, new.micro_batch_size, new.accumulation_steps) == (3, 4, 2)
    for field in ("run_id", "storage", "total_steps", "train_samples", "eval_samples", "evaluate_every"):
        assert getattr(new, field) == getattr(plan, field), field


def test_a_run_can_go_on_longer_and_says_what_that_does_to_the_learning_rate(plan):
    new = revised(plan, "training.epochs=6")
    assert (plan.total_steps, new.total_steps) == (15, 30)
    assert any("to step 30 instead of 15" in note and "at step 15" in note for note in new.notes)
    by_steps = revised(plan, "training.epochs=null", "training.max_steps=40")
    assert by_steps.total_steps == 40
    assert not any("instead of" in note for note in revised(plan).notes)


def test_another_strategy(plan):
    assert revised(plan, "strategy={kind: zero, stage: 2}").job.strategy.kind == "zero"


def test_workers_that_the_batch_can_not_be_divided_among_are_refused(plan):
    with pytest.raises(SpecError, match=r"24 can't be divided among scaling\.workers 5; 20 or 25 can"):
        revised(plan, "scaling.workers=5")


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("training.seed=2", "training.seed"),
        ("training.optimizer.learning_rate=1", "training.optimizer.learning_rate"),
        ("training.global_batch_size=48", "training.global_batch_size"),
        ("model.width=7", "model.width"),
        ("data.tail=drop", "data.tail"),
    ],
)
def test_the_training_itself_can_not_change(plan, override, field):
    with pytest.raises(
        SpecError, match=rf"^{field} can't change in a run that has begun; these can: scaling, "
    ):
        revised(plan, override)
