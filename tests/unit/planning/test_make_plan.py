import pytest

from orchestrator.errors import SpecError
from orchestrator.models.sizes import Counts
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, Plan, RunContext
from orchestrator.planning.resolve import resolve
from orchestrator.spec.job import JobSpec

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


def test_a_plan_holds_what_each_part_decided():
    sections = {"scaling": {"workers": 4}, "initialize": {"freeze": ["model/a.bias"]}}
    made = plan(job(**sections, training={"global_batch_size": 256, "micro_batch_size": 32}))
    assert made.context == CONTEXT
    assert (made.world_size, made.micro_batch_size, made.accumulation_steps) == (4, 32, 2)
    assert (made.total_steps, made.train_samples, made.eval_samples) == (100, 1000, 100)
    assert (made.evaluate_every, made.sample_every, made.checkpoint_every) == (10, 10, 10)
    assert (made.parameters, made.trainable_parameters, made.flops_per_sample) == (1000, 900, 6000)
    assert (made.memory.parameters, made.memory.gradients, made.memory.optimizer) == (4000, 3600, 7200)
    assert made.memory.activations == 4 * 50 * 32
    assert (made.job.model.in_features, made.job.objective.kind) == (30, "classification")
    assert made.notes == ()
    assert Plan.model_validate_json(made.model_dump_json()) == made


def test_what_was_chosen_is_noted():
    made = plan(
        job(
            training={"max_steps": None, "epochs": 1.5},
            strategy={"kind": "zero"},
            scaling={"memory_per_worker": "1KB"},
        )
    )
    epochs, deepspeed, memory = made.notes
    assert epochs == "1.5 epochs of 1000 samples are 24 steps of 64"
    assert deepspeed.startswith("DeepSpeed: buckets of 1000 elements")
    assert memory.startswith("warning: ")


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"training": {"global_batch_size": 10}, "scaling": {"workers": 4}}, "8 or 12 can"),
        ({"training": {"schedule": {"warmup_steps": 101}}}, "warmup_steps 101"),
        ({"training": {"precision": "fp16"}}, "fp16 needs a GPU"),
        ({"initialize": {"freeze": ["*"]}}, "freeze every parameter"),
        ({"strategy": {"kind": "zero", "deepspeed": {"gradient_clipping": 7}}}, "the job file decides 1.0"),
        (
            {"data": {"train": {"kind": "builtin", "name": "iris"}}, "training": {"sample_every": 1}},
            "data.eval",
        ),
    ],
)
def test_each_part_refuses_what_does_not_fit(sections, says):
    with pytest.raises(SpecError) as caught:
        plan(job(**sections))
    assert says in str(caught.value)


def test_averages_are_measured_under_names_of_their_own():
    keep = {"keep": {"metric": "val/ema/accuracy", "mode": "max"}}
    assert plan(job(training={"ema": {}}, checkpoint=keep)).memory.averages == 4000
    with pytest.raises(SpecError, match="'val/ema/accuracy' is not measured"):
        plan(job(checkpoint=keep))
    with pytest.raises(SpecError, match="min would keep the worst checkpoints by val/ema/accuracy"):
        plan(job(training={"ema": {}}, checkpoint={"keep": {"metric": "val/ema/accuracy"}}))


def test_averages_that_cant_be_kept_are_refused():
    offload = {"optimizer": "nvme", "nvme_path": "/disk"}
    with pytest.raises(SpecError, match=r"offload\.optimizer: nvme keeps in files"):
        plan(job(training={"ema": {}}, strategy={"kind": "zero", "stage": 3, "offload": offload}))
    pictures = DataFacts(train_samples=1000, eval_samples=100, dims={"channels": 1, "image_size": 8})
    with pytest.raises(SpecError, match="an adversarial objective averages its generator by itself"):
        plan(job(model={"family": "gan"}, training={"ema": {}}), pictures)
