"""How long a run is, and how often it evaluates, shows samples and saves."""

from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.planning.steps import choose_cadence, count_steps, steps_per_epoch
from orchestrator.spec.job import JobSpec
from orchestrator.spec.training import TrainingSpec

SPLIT = {"kind": "split", "fraction": 0.1}


def job(evaluation=None, checkpoint_every=None, **training):
    return JobSpec.model_validate(
        {
            "name": "job",
            "model": {"family": "mlp"},
            "data": {"train": {"kind": "builtin", "name": "iris"}, "eval": evaluation},
            "training": {"max_steps": 1, **training},
            "checkpoint": {"every_steps": checkpoint_every},
        }
    )


@given(st.integers(1, 10**6), st.integers(1, 1024), st.sampled_from(["pad", "drop"]))
def test_an_epoch_is_covered_or_all_but_its_partial_batch(samples, batch, tail):
    taken = steps_per_epoch(samples, batch, tail) * batch
    missing = samples - taken
    assert -batch < missing <= 0 if tail == "pad" else 0 <= missing < batch


@given(st.integers(1, 10_000), st.integers(1, 512), st.integers(1, 20), st.sampled_from(["pad", "drop"]))
def test_whole_epochs_are_whole(samples, batch, epochs, tail):
    assume(samples >= batch)
    steps = count_steps(TrainingSpec(epochs=epochs, global_batch_size=batch), tail, samples)
    assert steps == epochs * steps_per_epoch(samples, batch, tail)


@given(st.integers(1, 10_000), st.integers(1, 512), st.integers(1, 40))
def test_part_of_an_epoch_is_not_cut_short(samples, batch, quarters):
    assume(samples >= batch)
    steps = count_steps(TrainingSpec(epochs=quarters / 4, global_batch_size=batch), "pad", samples)
    wanted = Fraction(quarters, 4) * steps_per_epoch(samples, batch, "pad")
    assert wanted <= steps < wanted + 1


def test_steps_that_are_written_are_taken():
    assert count_steps(TrainingSpec(max_steps=7), "pad", None) == 7
    assert count_steps(TrainingSpec(max_steps=7), "pad", 10**9) == 7


@pytest.mark.parametrize(
    ("training", "tail", "samples", "says"),
    [
        (
            {"epochs": 1},
            "pad",
            None,
            "training.epochs: the number of samples isn't known before the data is prepared; give max_steps",
        ),
        *(
            (
                {"max_steps": 1},
                tail,
                63,
                "training.global_batch_size: 64 is more than the 63 training samples",
            )
            for tail in ("pad", "drop")
        ),
        ({"max_steps": 9, "schedule": {"warmup_steps": 10}}, "pad", None, "warmup_steps 10 is more than"),
        ({"epochs": 1, "schedule": {"warmup_steps": 3}}, "pad", 128, "the run's 2 steps"),
    ],
)
def test_a_run_of_no_length_is_refused(training, tail, samples, says):
    with pytest.raises(SpecError) as refused:
        count_steps(TrainingSpec.model_validate(training), tail, samples)
    assert says in str(refused.value)
    assert "  " not in str(refused.value) and str(refused.value).startswith(("training.", "data."))


def test_bounds_that_are_just_met_are_taken():
    assert count_steps(TrainingSpec(epochs=1), "drop", 64) == 1
    assert count_steps(
        TrainingSpec.model_validate({"max_steps": 9, "schedule": {"warmup_steps": 9}}), "pad", None
    )


@pytest.mark.parametrize(
    ("spec", "total_steps", "cadence"),
    [
        (job(), 100, (0, 0, 10)),
        (job(), 9, (0, 0, 1)),
        (job(checkpoint_every=3), 100, (0, 0, 3)),
        (job(SPLIT), 100, (10, 10, 10)),
        (job(SPLIT), 109, (10, 10, 10)),
        (job(SPLIT), 1, (1, 1, 1)),
        (job(SPLIT, evaluate_every=7), 100, (7, 7, 10)),
        (job(SPLIT, sample_every=5), 100, (10, 5, 10)),
        (job(SPLIT, 2, evaluate_every=7, sample_every=5), 100, (7, 5, 2)),
    ],
)
def test_cadence(spec, total_steps, cadence):
    made = choose_cadence(spec, total_steps)
    assert (made.evaluate_every, made.sample_every, made.checkpoint_every) == cadence


@pytest.mark.parametrize("field", ["evaluate_every", "sample_every"])
def test_what_needs_evaluation_data_is_refused_without(field):
    with pytest.raises(SpecError, match=rf"training\.{field} is given, but data\.eval is not"):
        choose_cadence(job(**{field: 5}), 100)
