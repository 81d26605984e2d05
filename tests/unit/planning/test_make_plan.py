import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.models.sizes import Counts
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, Plan, RunContext
from orchestrator.planning.resolve import resolve
from orchestrator.planning.schedule import learning_rate_factor
from orchestrator.spec.job import JobSpec, ScheduleSpec

FACTS = DataFacts(train_samples=1000, eval_samples=100, dims={"features": 30, "outputs": 2})
COUNTS = Counts(1000, 6000, 50, (("model/a.weight", 900), ("model/a.bias", 100)))
CONTEXT = RunContext(
    version="1", run_id="job-x", base_dir="/b", storage="/s", cache="/c", tracking_uri="sqlite:////m"
)


def job(**sections):
    base = {
        "name": "job",
        "model": {"family": "mlp", "size": "debug"},
        "data": {
            "train": {"kind": "builtin", "name": "breast_cancer"},
            "eval": {"kind": "split", "fraction": 0.1},
        },
        "training": {"max_steps": 100, **sections.pop("training", {})},
    }
    return JobSpec.model_validate({**base, **sections})


def plan(spec, facts=FACTS):
    return make_plan(resolve(spec, facts), facts, COUNTS, CONTEXT)


def test_a_plan_round_trips_and_leaves_nothing_open():
    made = plan(job(scaling={"workers": 4}, training={"global_batch_size": 256, "micro_batch_size": 32}))
    assert Plan.model_validate_json(made.model_dump_json()) == made
    assert made.batch_equation == "global 256 = 4 workers × 32 micro × 2 accumulation"
    assert made.job.model.in_features == 30
    assert made.job.objective.kind == "classification"
    assert (
        made.digest
        == plan(
            job(scaling={"workers": 4}, training={"global_batch_size": 256, "micro_batch_size": 32})
        ).digest
    )
    assert made.digest != plan(job(training={"seed": 1})).digest


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 64), st.integers(1, 512), st.integers(1, 512))
def test_batch_arithmetic_is_exact_or_refused(workers, batch, micro):
    spec = job(scaling={"workers": workers}, training={"global_batch_size": batch, "micro_batch_size": micro})
    try:
        made = plan(spec)
    except SpecError as error:
        assert "batch_size" in str(error)
        assert batch % workers or (batch // workers) % micro
    else:
        assert made.world_size * made.micro_batch_size * made.accumulation_steps == batch


@given(st.integers(1, 10_000), st.integers(1, 512), st.sampled_from(["pad", "drop"]))
def test_epochs_become_steps(samples, batch, tail):
    assume(tail == "pad" or samples >= batch)
    spec = job(training={"max_steps": None, "epochs": 3, "global_batch_size": batch})
    spec = spec.model_copy(update={"data": spec.data.model_copy(update={"tail": tail})})
    made = plan(spec, FACTS.model_copy(update={"train_samples": samples}))
    per_epoch = -(-samples // batch) if tail == "pad" else samples // batch
    assert made.total_steps == 3 * per_epoch


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"training": {"global_batch_size": 10}, "scaling": {"workers": 4}}, "8 or 12 can"),
        ({"training": {"global_batch_size": 64, "micro_batch_size": 48}}, "training.micro_batch_size 48"),
        ({"training": {"precision": "fp16"}}, "fp16 needs a GPU"),
        (
            {
                "strategy": {
                    "kind": "zero",
                    "stage": 3,
                    "offload": {"parameters": "nvme", "nvme_path": "/disk"},
                }
            },
            "keeps parameters on nvme in 16 bits",
        ),
        ({"training": {"schedule": {"warmup_steps": 101}}}, "warmup_steps 101"),
        ({"scaling": {"accelerator_type": "H100"}}, "gpus_per_worker"),
        ({"initialize": {"freeze": ["*"]}}, "freeze every parameter"),
        ({"initialize": {"freeze": ["nothing*"]}}, "no parameter matches"),
        ({"objective": {"kind": "causal_lm"}}, "can't be trained with causal_lm"),
        ({"model": {"family": "mlp", "in_features": 7}}, "but the data has 30"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(sections, says):
    with pytest.raises(SpecError) as caught:
        plan(job(**sections))
    assert says in str(caught.value)


def test_frozen_parameters_are_not_counted_as_trained():
    made = plan(job(initialize={"freeze": ["model/a.bias"]}))
    assert (made.parameters, made.trainable_parameters) == (1000, 900)


def test_unknown_sizes_must_be_written():
    with pytest.raises(SpecError, match="write it in the job file"):
        plan(job(), DataFacts(train_samples=10))
    with pytest.raises(SpecError, match="give max_steps"):
        plan(job(training={"max_steps": None, "epochs": 1}), FACTS.model_copy(update={"train_samples": None}))


@pytest.mark.parametrize(
    ("strategy", "parameters", "gradients", "optimizer"),
    [
        ({"kind": "ddp"}, 4, 4, 8),
        ({"kind": "fsdp"}, 1, 1, 2),
        ({"kind": "zero", "stage": 1}, 5, 4, 2),
        ({"kind": "zero", "stage": 2}, 5, 1, 2),
        ({"kind": "zero", "stage": 3}, 2, 1, 2),
    ],
)
def test_memory_in_fp32_over_four_workers(strategy, parameters, gradients, optimizer):
    memory = plan(job(strategy=strategy, scaling={"workers": 4})).memory
    assert (memory.parameters, memory.gradients, memory.optimizer) == (
        1000 * parameters,
        1000 * gradients,
        1000 * optimizer,
    )


def test_schedule_shapes():
    cosine = ScheduleSpec(kind="cosine", warmup_steps=10, final_ratio=0.1)
    assert learning_rate_factor(cosine, 1, 110) == pytest.approx(0.1)
    assert learning_rate_factor(cosine, 10, 110) == 1.0
    assert learning_rate_factor(cosine, 60, 110) == pytest.approx(0.55)
    assert learning_rate_factor(cosine, 110, 110) == pytest.approx(0.1)
    linear = ScheduleSpec(kind="linear", final_ratio=0.0)
    assert learning_rate_factor(linear, 25, 100) == pytest.approx(0.75)
    assert learning_rate_factor(ScheduleSpec(kind="constant"), 99, 100) == 1.0
