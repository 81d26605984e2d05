"""A model of a person's own, planned: what is found of it, and one sentence for each thing that can't be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError, TrainwrightError
from orchestrator.planning.plan import Plan
from orchestrator.sdk import make_plan
from orchestrator.spec.job import JobSpec

CONTRACT = Path(__file__).parents[2] / "contract"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path / "home"))
    (tmp_path / "rows.csv").write_text(
        "a,b,c,d,e,label\n" + "".join(f"{i},{i % 3},1,2,{i % 5},{i % 3}\n" for i in range(30))
    )
    (tmp_path / "own_models.py").write_text((CONTRACT / "own_models.py").read_text())


def plan(
    folder: Path,
    factory: str,
    objective: dict[str, Any] | None = None,
    ema: dict[str, Any] | None = None,
    **model: Any,
) -> Plan:
    job = {
        "name": "own",
        "model": {"family": "custom", "factory": factory, **model},
        "objective": objective or {"kind": "classification"},
        "data": {
            "train": {"kind": "csv", "path": "rows.csv"},
            "columns": {"features": ["a", "b", "c", "d", "e"]},
        },
        "training": {"max_steps": 2, "global_batch_size": 4, "ema": ema},
        "tracking": {"kind": "none"},
    }
    return make_plan(JobSpec.model_validate(job), base_dir=folder)


def test_what_the_code_and_the_data_say_is_in_the_plan(tmp_path):
    made = plan(tmp_path, "own_models:build_tagger", config={"width": 16})
    assert made.job.model.inputs["features"].shape == (5,)
    assert made.job.model.blocks == ("Layer",)
    assert made.job.model.outputs == 3
    assert made.job.model.deferred is True
    assert made.job.environment.working_dir == "."
    assert made.parameters == 6 * 16 + 3 * 17 * 16 + 17 * 3
    # a linear layer: two operations for each weight forward, as many for its gradient, and for its input's but the first's
    assert made.flops_per_sample == 6 * (3 * 16 * 16 + 16 * 3) + 4 * 5 * 16
    assert any("Layer × 3" in note for note in made.notes)
    assert any("features (5,) float32" in note for note in made.notes)


def test_a_factory_that_needs_numbers_is_built_normally_and_that_is_said(tmp_path):
    made = plan(tmp_path, "own_models:build_by_value")
    assert made.job.model.deferred is False
    assert any("can't be built without memory" in note for note in made.notes)


def test_weights_that_a_model_averages_by_itself_are_not_averaged_twice(tmp_path):
    adversarial = {"kind": "custom", "factory": "own_models:Gan"}
    for factory, says in (
        ("own_models:build_averaging_gan", "in module 'average'"),
        ("own_models:build_gan", ""),
    ):
        if not says:
            assert plan(tmp_path, factory, adversarial, ema={}).job.training.ema is not None
            continue
        plan(tmp_path, factory, adversarial)
        with pytest.raises(
            SpecError, match=f"training.ema: the model averages its weights by itself, {says}"
        ):
            plan(tmp_path, factory, adversarial, ema={})


def test_an_objective_of_one_s_own_says_its_phases_and_metrics(tmp_path):
    made = plan(tmp_path, "own_models:build_gan", {"kind": "custom", "factory": "own_models:Gan"})
    assert made.job.objective.phases == ("discriminator", "generator")
    assert made.job.objective.metrics == ("loss_generator",)
    assert any("MLflow gets none: none is called model" in note for note in made.notes)


@pytest.mark.parametrize(
    ("factory", "more", "message"),
    [
        ("no_models:build", {}, "no_models:build can't be imported: there is no module 'no_models'.*own_models.py"),
        ("own_models:built", {}, "'built' is not there in .*own_models.py; there is"),
        ("own_models:build_nothing", {}, "must return an nn.Module or a dict of them by name, not str"),
        ("own_models:build_tagger", {"config": {"depth": 2}}, "failed: TypeError: .*unexpected keyword argument 'depth'"),
        ("own_models:build_random", {}, "returns another model each time"),
        ("own_models:build_scalar", {}, r"parameter scale is a single number.*make it of shape \(1,\)"),
        ("own_models:build_lazy", {}, "of a lazy layer"),
        ("own_models:Narrow", {}, r"layer 'head' \(Linear\), given \(2, 8\) float32"),
        ("own_models:build_tagger", {"config": {"outputs": 4}}, r"returns \(samples, 4\), but classification takes \(samples, 3\)"),
        ("own_models:build_tagger", {"blocks": ["Block"]}, "model.blocks: the model has no module of class 'Block'; there is"),
        ("own_models:build_gan", {}, "classification trains one module, and own_models:build_gan returns discriminator, generator"),
        (
            "own_models:build_tagger",
            {"objective": {"kind": "custom", "factory": "own_models:Layer", "config": {"width": 2}}},
            r"must return an Objective, but what it returns \(Layer\) has no phases",
        ),
    ],
)  # fmt: skip
def test_what_can_not_be_is_one_sentence(tmp_path, factory, more, message):
    with pytest.raises(TrainwrightError, match=message) as refused:
        plan(tmp_path, factory, **more)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code in (2, 3)
