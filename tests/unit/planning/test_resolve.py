"""What a job leaves open about its model comes from the family and the data, and is complete afterwards."""

import pytest
from pydantic import ValidationError

from orchestrator.errors import SpecError
from orchestrator.models.configs import default_objective
from orchestrator.planning.plan import DataFacts, ResolvedJob
from orchestrator.planning.resolve import resolve
from orchestrator.spec.job import JobSpec

TABLE = DataFacts(dims={"features": 30, "outputs": 2})
PICTURES = DataFacts(dims={"channels": 3, "image_size": 32, "outputs": 10})
TEXT = DataFacts(
    dims={"vocabulary": 100, "context": 64, "outputs": 2, "mask_token": 4},
    lists={"special_tokens": (0, 1)},
)


def job(model, **sections):
    return JobSpec.model_validate(
        {
            "name": "job",
            "model": model,
            "data": {"train": {"kind": "builtin", "name": "iris"}},
            "training": {"max_steps": 1},
            **sections,
        }
    )


@pytest.mark.parametrize(
    ("model", "facts", "sizes"),
    [
        ({"family": "mlp"}, TABLE, {"in_features": 30, "outputs": 2, "cardinalities": None}),
        (
            {"family": "mlp"},
            DataFacts(dims={"features": 0, "outputs": 2}, lists={"cardinalities": (3, 4)}),
            {"in_features": 0, "cardinalities": (3, 4)},
        ),
        ({"family": "mlp", "outputs": 5}, TABLE, {"outputs": 5}),  # classes that no sample has
        ({"family": "cnn", "size": "resnet18"}, PICTURES, {"in_channels": 3, "image_size": 32, "width": 64}),
        ({"family": "gan"}, PICTURES, {"channels": 3, "image_size": 32}),
        ({"family": "gpt", "size": "debug"}, TEXT, {"vocabulary": 100, "context": 64}),
        ({"family": "gpt", "size": "debug", "vocabulary": 128}, TEXT, {"vocabulary": 128}),
    ],
)
def test_sizes_come_from_the_data(model, facts, sizes):
    made = resolve(job(model), facts)
    assert {name: getattr(made.model, name) for name in sizes} == sizes


@pytest.mark.parametrize("family", ["mlp", "cnn", "gpt", "bert", "gan", "autoencoder", "rnn", "lstm", "gru"])
def test_a_family_has_its_own_objective(family):
    facts = DataFacts(dims={**TABLE.dims, **PICTURES.dims, **TEXT.dims}, lists={"special_tokens": (0, 1)})
    spec = job({"family": family, "size": "debug"})
    made = resolve(spec, facts)
    assert made.objective.kind == default_objective(spec.model).kind
    assert ResolvedJob.model_validate_json(made.model_dump_json()) == made
    assert resolve(made, facts) == made


def test_an_objective_takes_from_the_data_too():
    objective = resolve(job({"family": "bert", "size": "debug"}), TEXT).objective
    assert (objective.mask_token, objective.special_tokens) == (4, (0, 1))


def test_all_else_stays_as_written():
    spec = job({"family": "mlp"}, scaling={"workers": 3}, description="text")
    before, after = spec.model_dump(), resolve(spec, TABLE).model_dump()
    assert {name for name in before if before[name] != after[name]} == {"model", "objective"}


@pytest.mark.parametrize(
    ("spec", "facts", "says"),
    [
        (
            job({"family": "mlp"}),
            DataFacts(),
            "model.in_features: can't be known from the data (features); write it",
        ),
        (
            job({"family": "mlp", "in_features": 7}),
            TABLE,
            "model.in_features: is 7, but the data has 30 (features)",
        ),
        (job({"family": "mlp", "outputs": 1}), TABLE, "model.outputs: is 1, but the data has 2"),
        (
            job({"family": "mlp"}, objective={"kind": "causal_lm"}),
            TABLE,
            "can't be trained with causal_lm; it can with",
        ),
        (job({"family": "bert"}), DataFacts(dims={"vocabulary": 9}), "objective.mask_token: can't be known"),
        (
            job({"family": "gpt", "size": "debug", "context": 32}),
            TEXT,
            "model.context is 32, but data.prepare.context",
        ),
        (
            job({"family": "gan"}),
            DataFacts(dims={"channels": 1, "image_size": 27}),
            "model: image_size 27 can't be halved",
        ),
        (
            job({"family": "gpt", "size": "debug"}, objective={"kind": "causal_lm", "beams": 101}),
            TEXT,
            "objective.beams: 101 is more than the 100 tokens that a text can go on with",
        ),
        (
            job(
                {"family": "transformer", "size": "debug"},
                objective={"kind": "sequence_to_sequence", "start_token": 0, "end_token": 100},
            ),
            TEXT,
            "objective.end_token: 100 is not below the model's 100 tokens",
        ),
        (
            job({"family": "lstm", "bidirectional": True}, objective={"kind": "causal_lm"}),
            TEXT,
            "model.bidirectional: a causal language model must not see what comes",
        ),
        (
            job({"family": "mlp"}, objective={"kind": "classification", "top_k": [1, 3]}),
            TABLE,
            "objective.top_k: the 3 likeliest classes are asked for, but there are 2 classes",
        ),
        (
            job({"family": "mlp"}, objective={"kind": "classification", "class_weights": [1, 2, 3]}),
            TABLE,
            "objective.class_weights: 3 weights are given, but there are 2 classes",
        ),
        (
            job({"family": "gan"}, objective={"kind": "adversarial", "loss": "wasserstein"}),
            PICTURES,
            "objective.loss: wasserstein needs a bound",
        ),
    ],
)
def test_what_is_unknown_or_contradicts_the_data_is_refused(spec, facts, says):
    with pytest.raises(SpecError) as refused:
        resolve(spec, facts)
    assert says in str(refused.value)


def test_a_length_penalty_without_a_search_is_refused():
    with pytest.raises(ValidationError, match=r"length_penalty 0\.5 is of a beam search, and beams is 1"):
        job({"family": "gpt"}, objective={"kind": "causal_lm", "length_penalty": 0.5})


@pytest.mark.parametrize(
    ("sections", "missing"),
    [
        (
            {"model": {"family": "mlp", "outputs": 2}, "objective": {"kind": "classification"}},
            "model.in_features",
        ),
        (
            {"model": {"family": "bert", "vocabulary": 9}, "objective": {"kind": "masked_lm"}},
            "objective.mask_token",
        ),
        ({"model": {"family": "mlp", "in_features": 1, "outputs": 2}}, "objective"),
    ],
)
def test_a_resolved_job_lacks_nothing(sections, missing):
    with pytest.raises(ValidationError) as refused:
        ResolvedJob.model_validate({**job({"family": "mlp"}).model_dump(), "objective": None, **sections})
    assert missing in str(refused.value)
