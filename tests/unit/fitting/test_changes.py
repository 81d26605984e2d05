"""Which changes are named where a plan does not fit, and which strategy auto stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from orchestrator.errors import SpecError
from orchestrator.fitting import auto, changes
from orchestrator.fitting.ask import Simulator
from orchestrator.models.configs import CausalLmConfig, GptConfig
from orchestrator.planning.devices import Device
from orchestrator.planning.peak import Peak
from orchestrator.planning.plan import Plan, ResolvedJob
from orchestrator.testing import small_plan

GB = 10**9


class Told:
    """Answers as it was told, without looking."""

    def __init__(self, total: Callable[[Plan], float]) -> None:
        self._total = total

    def peak(self, plan: Plan, device: Device | None = None) -> Peak:
        return Peak(activations=int(self._total(plan) * GB))


def told(total: Callable[[Plan], float]) -> Simulator:
    return cast(Simulator, Told(total))


def remake(job: ResolvedJob) -> Plan:
    training = job.training
    assert training.max_steps is not None
    if training.global_batch_size % job.scaling.workers:
        raise SpecError("can't be divided")
    plan = small_plan(job.scaling.workers, micro_batch_size=training.micro_batch_size)
    return plan.model_copy(update={"job": job})


def plan_of(workers: int = 4, strategy: dict[str, Any] | None = None, gpus: int = 1) -> Plan:
    plan = small_plan(workers, strategy=strategy, training={"global_batch_size": 8 * workers})
    job = changes.with_overrides(plan.job, {"scaling.gpus_per_worker": gpus})
    return plan.model_copy(update={"job": job})


H100 = Device(name="H100", memory=80 * GB)


def test_what_fits_needs_no_change() -> None:
    verdict = changes.judge(plan_of(), H100, told(lambda _: 40), remake)
    assert verdict.fits
    assert verdict.sentence == "43.5GB of 80GB (H100): fits"
    assert not verdict.changes


def test_three_changes_the_cheapest_first() -> None:
    def total(plan: Plan) -> float:
        less = plan.job.training.recomputation == "blocks" or plan.job.training.precision == "bf16"
        return 40 if less or plan.job.strategy.kind == "fsdp" else 90

    verdict = changes.judge(plan_of(), H100, told(total), remake)
    assert not verdict.fits
    assert [change.overrides for change in verdict.changes] == [
        ("training.precision=bf16",),
        ("strategy='{kind: fsdp}'",),
        ("training.recomputation=blocks",),
    ]
    assert all(change.needed == verdict.changes[0].needed < 80 * GB for change in verdict.changes)
    assert all(change.cost for change in verdict.changes)
    assert "would fit: --set training.precision=bf16" in verdict.lines()[2]


def test_changes_that_only_help_together() -> None:
    def total(plan: Plan) -> float:
        return 40 if plan.job.training.recomputation == "blocks" and plan.job.strategy.kind == "fsdp" else 90

    (first, *_) = changes.judge(plan_of(), H100, told(total), remake).changes
    assert set(first.overrides) == {"strategy='{kind: fsdp}'", "training.recomputation=blocks"}


def test_logits_of_a_language_model_in_chunks() -> None:
    plan = plan_of()
    update = {"model": GptConfig(vocabulary=50257), "objective": CausalLmConfig()}
    language = plan.model_copy(update={"job": plan.job.model_copy(update=update)})

    def total(plan: Plan) -> float:
        return 40 if getattr(plan.job.objective, "chunk_tokens", None) else 90

    (first,) = changes.judge(
        language, H100, told(total), lambda job: language.model_copy(update={"job": job})
    ).changes
    assert first.overrides == ("objective.chunk_tokens=1024",)


def _unless_many(total: float) -> Callable[[Plan], float]:
    return lambda plan: 1 if plan.world_size > 100 else total


def test_nothing_helps() -> None:
    verdict = changes.judge(plan_of(), H100, told(_unless_many(200)), remake)
    assert not verdict.changes
    assert "none of the usual changes" in verdict.lines()[-1]


def test_a_block_that_fits_no_device_is_said() -> None:
    verdict = changes.judge(plan_of(), H100, told(lambda _: 200), remake)
    assert verdict.lines()[-1].startswith(
        "one block does not fit: gathered whole, with the activations of one sample, it takes 212GB of 80GB (H100)"
    )
    with pytest.raises(SpecError, match="strategy: one block does not fit"):
        auto.decide(plan_of(), H100, told(lambda _: 200), remake)


@pytest.mark.parametrize(
    ("fitting", "kind"),
    [({"ddp", "zero 1", "fsdp"}, "ddp"), ({"zero 1", "fsdp"}, "zero 1"), ({"fsdp"}, "fsdp")],
)
def test_auto_takes_the_first_that_fits(fitting: set[str], kind: str) -> None:
    ask = told(lambda plan: 40 if auto.named(plan.job.strategy) in fitting else 90)
    chosen = auto.decide(plan_of(), H100, ask, remake)
    assert auto.named(chosen.job.strategy) == kind
    assert [auto.named(one.strategy) for one in chosen.weighed if one.fits] == [kind]
    assert chosen.notes[-1].startswith(f"strategy auto: {kind}, the one that sends least")
    assert Plan.model_validate_json(chosen.model_dump_json()) == chosen


def test_auto_says_what_came_nearest() -> None:
    ask = told(lambda plan: _unless_many(100 if plan.job.strategy.kind == "fsdp" else 200)(plan))
    with pytest.raises(SpecError, match=r"none that auto knows fits 80GB \(H100\); fsdp takes least, 106GB"):
        auto.decide(plan_of(), H100, ask, remake)


def test_auto_keeps_to_what_an_optimizer_can() -> None:
    plan = plan_of()
    adafactor = changes.with_overrides(plan.job, {"training.optimizer.kind": "adafactor"})
    with pytest.raises(SpecError, match="ddp takes least"):
        auto.decide(plan.model_copy(update={"job": adafactor}), H100, told(_unless_many(90)), remake)
