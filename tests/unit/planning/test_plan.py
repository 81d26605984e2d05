"""A plan crosses the process boundary as JSON, and is known by its digest."""

import pytest

from orchestrator.planning.plan import GroupSize, MemoryEstimate, Plan, ResolvedJob, RunContext
from orchestrator.planning.question import EvaluateQuestion, TrainedModel

JOB = ResolvedJob.model_validate(
    {
        "name": "job",
        "model": {"family": "mlp", "in_features": 3, "outputs": 2},
        "objective": {"kind": "classification"},
        "data": {"train": {"kind": "builtin", "name": "iris"}},
        "training": {"max_steps": 5, "global_batch_size": 64},
    }
)
PLAN = Plan(
    version="1",
    run_id="job-abcdefgh",
    base_dir="/jobs",
    storage="/s",
    cache="/c",
    tracking_uri="sqlite:////m",
    git_commit="abc",
    job=JOB,
    world_size=4,
    micro_batch_size=8,
    accumulation_steps=2,
    total_steps=5,
    train_samples=120,
    eval_samples=30,
    evaluate_every=0,
    sample_every=0,
    checkpoint_every=1,
    parameters=10,
    trainable_parameters=10,
    flops_per_sample=60,
    memory=MemoryEstimate(parameters=1, gradients=2, optimizer=3, activations=4),
    notes=("a note",),
)


def test_a_plan_comes_back_from_json_as_it_was():
    again = Plan.model_validate_json(PLAN.model_dump_json())
    assert again == PLAN
    assert type(again.job) is ResolvedJob
    assert again.digest == PLAN.digest


def test_the_batch_as_an_equation():
    assert PLAN.batch_equation == "global 64 = 4 workers × 8 micro × 2 accumulation"


def test_its_context_is_what_it_was_made_for():
    assert PLAN.context == RunContext.model_validate(
        {name: getattr(PLAN, name) for name in RunContext.model_fields}
    )


@pytest.mark.parametrize("field", sorted(RunContext.model_fields.keys() - {"version"}))
def test_the_digest_does_not_depend_on_the_run(field):
    assert PLAN.model_copy(update={field: "another"}).digest == PLAN.digest


COUNTED = {"parameters", "trainable_parameters", "flops_per_sample", "memory"}
TOLD = {"weighed", "notes"}


@pytest.mark.parametrize(
    "field", sorted(Plan.model_fields.keys() - RunContext.model_fields.keys() - COUNTED - TOLD | {"version"})
)
def test_the_digest_depends_on_all_that_is_decided(field):
    value = getattr(PLAN, field)
    another = (
        {
            "version": "2",
            "job": JOB.model_copy(update={"description": "another"}),
            "sizes": (GroupSize(workers=1, micro_batch_size=8, accumulation_steps=1, memory=PLAN.memory),),
            "question": EvaluateQuestion(of=TrainedModel(run="job-another", storage="/s")),
        }[field]
        if not isinstance(value, int)
        else value + 1
    )
    assert PLAN.model_copy(update={field: another}).digest != PLAN.digest


@pytest.mark.parametrize("field", sorted(COUNTED | TOLD))
def test_the_digest_is_the_same_for_a_client_that_does_not_count(field):
    another = {
        "memory": PLAN.memory.model_copy(update={"offloaded": 1}),
        "notes": (),
        "weighed": ({"not": "read"},),
    }
    assert PLAN.model_copy(update={field: another.get(field, 0)}).digest == PLAN.digest


def test_the_digest_takes_sizes_without_their_memory():
    size = GroupSize(workers=1, micro_batch_size=8, accumulation_steps=1, memory=PLAN.memory)
    uncounted = size.model_copy(update={"memory": PLAN.memory.model_copy(update={"activations": 0})})
    other = size.model_copy(update={"accumulation_steps": 2})
    digests = [PLAN.model_copy(update={"sizes": (one,)}).digest for one in (size, uncounted, other)]
    assert digests[0] == digests[1] != digests[2]


def test_what_is_counted_tells_of_the_code_of_a_model_of_ones_own():
    written = {
        **JOB.model_dump(mode="json", exclude_unset=True),
        "model": {"family": "custom", "factory": "mine:model", "outputs": 2},
    }
    mine = PLAN.model_copy(update={"job": ResolvedJob.model_validate(written)})
    assert mine.job.model_factories
    assert mine.model_copy(update={"parameters": 11}).digest != mine.digest
