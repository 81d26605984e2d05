"""The loop's cadence, order of calls, arithmetic and records, seen by the fakes that are shipped for it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from orchestrator import loop
from orchestrator.checkpoint import Ranking
from orchestrator.errors import InfrastructureError, NotANumberError
from orchestrator.models.base import Sums
from orchestrator.models.objectives.common import OnePhase
from orchestrator.planning.patience import Patience
from orchestrator.spec.training import StopEarlySpec
from orchestrator.strategies.base import Update
from orchestrator.testing import RecordingEngine, RecordingSurroundings, small_plan, steps_of

BATCH = 4


class AddsUp(OnePhase):
    """Its loss is the sum of the batch's ``x``, over as many units as ``units`` says; notes its calls."""

    units_per_sample = 1

    def __init__(self, calls=None, phases=("model",), units_per_sample=1):
        self.calls, self.phases, self.units_per_sample = (
            [] if calls is None else calls,
            phases,
            units_per_sample,
        )
        self.seeds = []

    def units(self, phase, batch):
        self.calls.append(("units", phase))
        return batch["units"].sum()

    def loss(self, phase, modules, batch):
        self.calls.append(("loss", phase))
        self.seeds.append(torch.initial_seed())
        return Sums(
            batch["x"].sum(), torch.tensor(len(batch["x"])), {"seen": (batch["x"].max(), torch.tensor(1))}
        )

    def evaluate(self, modules, batch):
        self.calls.append(("evaluate",))
        return {"loss": (batch["x"].sum(), torch.tensor(len(batch["x"])))}

    def after_step(self, phase, modules):
        self.calls.append(("after_step", phase))


def batches(calls=None, *, weight=None, units=1):
    """Global batches without an end: ``x`` is 1, 2, 3, 4 in the first and 10 more in each later one."""
    first = 1.0
    while True:
        if calls is not None:
            calls.append(("next",))
        batch = {"x": torch.arange(first, first + BATCH), "units": torch.full((BATCH,), units)}
        yield batch | ({} if weight is None else {"weight": torch.tensor(weight)})
        first += 10


def run(plan, *, start=0, objective=None, engine=None, data=None, **around):
    """Train with fakes that share one list of calls."""
    surroundings = RecordingSurroundings(**around)
    calls = surroundings.calls
    objective = objective or AddsUp(calls)
    engine = engine or RecordingEngine(calls=calls)
    outcome = loop.train(plan, engine, objective, steps_of(data or batches(calls), plan), surroundings, start)
    return outcome, surroundings, engine


def plan_of(steps=4, *, micro=None, fields=(), **training):
    training = {"max_steps": steps, "global_batch_size": BATCH, "schedule": {"kind": "constant"}, **training}
    return small_plan(training=training, micro_batch_size=micro, **dict(fields))


# -- the order of calls --------------------------------------------------------------------------------------


def test_a_step_makes_these_calls_in_this_order():
    calls = []
    plan = plan_of(1, micro=2, fields={"evaluate_every": 1, "sample_every": 1}, clip_grad_norm=0.5)
    objective = AddsUp(calls, ("first", "second"))
    evaluation = [{"x": torch.ones(2)}] * 2
    run(plan, objective=objective, engine=RecordingEngine(calls=calls), calls=calls, evaluation=evaluation)

    def micro(phase, last, loss):
        return [
            ("micro_step", phase, last), ("autocast",), ("loss", phase), ("autocast ends",), ("backward", phase, loss),
            ("micro_step ends",),
        ]  # fmt: skip

    def phase(name):
        return [
            *micro(name, False, 3 / 4), *micro(name, True, 7 / 4), ("before_update",), ("step", name, 1.0, 0.5),
            ("after_step", name),
        ]  # fmt: skip

    trained = {"train/loss_first": 2.5, "train/loss_second": 2.5, "train/seen": 3.0}
    trained |= {"train/grad_norm_first": 1.0, "train/grad_norm_second": 1.0}
    trained |= {"train/learning_rate": 0.001, "train/epoch": 0.0}
    assert calls == [
        ("next",), *phase("first"), *phase("second"), ("log", 1),
        ("evaluation",), ("autocast",), ("evaluate",), ("evaluate",), ("autocast ends",), ("log", 1),
        ("replicas_differ",), ("save", 1, {**trained, "val/loss": 1.0}), ("show_samples", 1),
    ]  # fmt: skip


def test_a_stop_is_asked_for_before_the_log_and_kept_to_after_the_save():
    _, around, _ = run(plan_of(fields={"checkpoint_every": 100}), stop_at=2)
    after = around.calls[around.calls.index(("stop_requested", 2)) :]
    assert [name for name, *_ in after] == ["stop_requested", "log", "replicas_differ", "save"]


# -- cadence -------------------------------------------------------------------------------------------------

NEVER = 100
CALLED = {"evaluation": "evaluate", "show_samples": "samples", "replicas_differ": "replicas", "save": "save"}
CASES = {
    # name: (plan, start, stop_at, {what: the steps it comes at})
    "each at its own pace": (
        plan_of(7, log_every=3, check_replicas_every=5,
                fields={"evaluate_every": 2, "sample_every": 4, "checkpoint_every": 3}),
        0, None,
        {"log": [1, 3, 6, 7], "evaluate": [2, 4, 6, 7], "samples": [4, 7], "replicas": [5, 7], "save": [3, 6, 7]},
    ),
    "nothing but the end": (
        plan_of(5, log_every=NEVER,
                fields={"evaluate_every": NEVER, "sample_every": NEVER, "checkpoint_every": NEVER}),
        0, None,
        {"log": [1, 5], "evaluate": [5], "samples": [5], "replicas": [5], "save": [5]},
    ),
    "none evaluated, none shown": (
        plan_of(4, log_every=2, fields={"evaluate_every": 0, "sample_every": 0, "checkpoint_every": 2}),
        0, None,
        {"log": [1, 2, 4], "evaluate": [], "samples": [], "replicas": [4], "save": [2, 4]},
    ),
    "each step": (
        plan_of(3, log_every=1, check_replicas_every=1,
                fields={"evaluate_every": 1, "sample_every": 1, "checkpoint_every": 1}),
        0, None,
        {"log": [1, 2, 3], "evaluate": [1, 2, 3], "samples": [1, 2, 3], "replicas": [1, 2, 3], "save": [1, 2, 3]},
    ),
    "resumed": (
        plan_of(9, log_every=3, fields={"evaluate_every": 4, "sample_every": 4, "checkpoint_every": 4}),
        4, None,
        {"log": [5, 6, 9], "evaluate": [8, 9], "samples": [8, 9], "replicas": [9], "save": [8, 9]},
    ),
    "stopped between all": (
        plan_of(9, log_every=4, fields={"evaluate_every": 2, "sample_every": 2, "checkpoint_every": 4}),
        0, 3,
        {"log": [1], "evaluate": [2], "samples": [2], "replicas": [3], "save": [3]},
    ),
    "stopped where it saves": (
        plan_of(9, log_every=4, fields={"evaluate_every": 4, "sample_every": 4, "checkpoint_every": 2}),
        0, 4,
        {"log": [1, 4], "evaluate": [4], "samples": [4], "replicas": [4], "save": [2, 4]},
    ),
    "one step": (
        plan_of(1, log_every=NEVER, fields={"checkpoint_every": NEVER}),
        0, None,
        {"log": [1], "evaluate": [], "samples": [], "replicas": [1], "save": [1]},
    ),
    "nothing left": (
        plan_of(4, fields={"evaluate_every": 1, "sample_every": 1, "checkpoint_every": 1}),
        4, None,
        {"log": [], "evaluate": [], "samples": [], "replicas": [], "save": []},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_cadence(name):
    plan, start, stop_at, expected = CASES[name]
    outcome, around, _ = run(plan, start=start, stop_at=stop_at, evaluation=[{"x": torch.ones(1)}])
    step, came = start, {what: [] for what in expected}
    for call, *_ in around.calls:
        step += call == "next"
        if call in CALLED:
            came[CALLED[call]].append(step)
    came["log"] = [logged.step for logged in around.logged if logged.seconds]
    assert came == expected
    last = plan.total_steps if stop_at is None else stop_at
    assert [logged.step for logged in around.logged if not logged.seconds] == expected["evaluate"]
    assert around.steps("show_samples") == expected["samples"] and around.steps("save") == expected["save"]
    # a run that is at its end is not asked whether it should end
    assert around.steps("stop_requested") == list(range(start + 1, last + (stop_at is not None)))
    assert (outcome.step, outcome.stopped) == (last, stop_at is not None)


# -- what the engine is given --------------------------------------------------------------------------------


def backwards(plan, **options):
    _, around, _ = run(plan, **options)
    return [call[2] for call in around.calls if call[0] == "backward"]


def test_the_loss_is_divided_by_the_units_of_the_global_batch():
    assert backwards(plan_of(1, micro=2)) == [3 / 4, 7 / 4]
    calls = []
    twice = AddsUp(calls, units_per_sample=2)
    assert backwards(plan_of(1), objective=twice, engine=RecordingEngine(calls=calls), calls=calls) == [
        10 / 8
    ]


def units_counted(weight=None, *, units, units_per_sample):
    calls = []
    objective = AddsUp(calls, units_per_sample=units_per_sample)
    data = batches(calls, weight=weight, units=units)
    return backwards(
        plan_of(1, micro=2), objective=objective, engine=RecordingEngine(calls=calls), calls=calls, data=data
    )


def test_units_are_counted_where_samples_differ_in_them_or_some_are_padding():
    assert units_counted(units=3, units_per_sample=None) == pytest.approx([3 / 12, 7 / 12])
    assert units_counted([1.0, 1.0, 1.0, 0.0], units=5, units_per_sample=1) == pytest.approx([3 / 20, 7 / 20])


def test_a_batch_without_units_is_divided_by_one():
    assert units_counted(units=0, units_per_sample=None) == [3.0, 7.0]


def test_the_engine_gets_the_schedules_factor_and_the_jobs_clip():
    schedule = {"kind": "linear", "warmup_steps": 2, "final_ratio": 0.0}
    _, around, _ = run(plan_of(4, schedule=schedule, clip_grad_norm=None))
    assert [call[2:] for call in around.calls if call[0] == "step"] == [
        (0.5, None), (1.0, None), (0.5, None), (0.0, None)
    ]  # fmt: skip
    learning_rate = around.metric("train/learning_rate")
    assert learning_rate == {1: 0.5e-3, 2: 1e-3, 3: 0.5e-3, 4: 0.0}


# -- seeds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 2])
def test_each_step_has_a_seed_of_its_own_whatever_came_before(start):
    objective = AddsUp()
    run(plan_of(4, seed=7), start=start, objective=objective)
    assert objective.seeds == [(7 * 1_000_003 + step) * 65_537 for step in range(start + 1, 5)]


def test_each_rank_has_seeds_of_its_own(monkeypatch):
    assert loop.step_seed(2, 5) == (2 * 1_000_003 + 5) * 65_537
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 3)
    assert loop.step_seed(2, 5) == (2 * 1_000_003 + 5) * 65_537 + 3


def test_the_device_is_seeded_where_it_is_in_use(monkeypatch):
    seeds = []
    monkeypatch.setattr("torch.cuda.manual_seed", seeds.append)
    run(plan_of(2))
    assert seeds == []
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    run(plan_of(2, seed=1))
    assert seeds == [loop.step_seed(1, 1), loop.step_seed(1, 2)]


@pytest.mark.parametrize("seed", [140_000_000, 2_000_000_000, 2**31 - 1])
def test_every_seed_that_a_job_may_have_is_one_of_torchs(seed):
    of_steps = {loop.step_seed(seed, step) for step in range(1, 100)}
    assert len(of_steps) == 99 and max(of_steps) < 2**63
    for value in of_steps:
        torch.default_generator.manual_seed(value)


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_ends_the_run_before_anything_is_saved(norm):
    around = RecordingSurroundings()
    engine = RecordingEngine(norms=[1.0, norm], calls=around.calls)
    plan = plan_of(fields={"checkpoint_every": 2})
    with pytest.raises(NotANumberError) as raised:
        loop.train(plan, engine, AddsUp(around.calls), steps_of(batches(), plan), around, 0)
    assert str(raised.value) == (
        f"step 2: the gradient of model is {norm}, so the loss is no longer a number;"
        " lower training.optimizer.learning_rate (it is 0.001) or set training.schedule.warmup_steps"
    )
    assert around.steps("save") == []


@pytest.mark.parametrize(
    ("training", "advice"),
    [
        ({"clip_grad_norm": None, "schedule": {"kind": "constant", "warmup_steps": 2}}, ["clip_grad_norm"]),
        ({"schedule": {"kind": "constant", "warmup_steps": 2}, "precision": "bf16"}, ["precision: fp32"]),
        ({"phase_optimizers": {"model": {"kind": "sgd", "learning_rate": 9.0}}}, ["schedule.warmup_steps"]),
    ],
)
def test_what_is_set_already_is_not_advised(training, advice):
    engine = RecordingEngine(norms=[math.nan])
    with pytest.raises(NotANumberError) as raised:
        run(plan_of(**training), engine=engine)
    own = "phase_optimizers.model" if "phase_optimizers" in training else "optimizer"
    rate = f"{own}.learning_rate (it is {9 if 'phase_optimizers' in training else 0.001})"
    said = str(raised.value).partition("; ")[2]
    assert [part.split("training.")[1] for part in said.split(" or ")] == [rate, *advice]


def bad_batches(*values):
    """One global batch without an end."""
    while True:
        yield {"x": torch.tensor(values), "units": torch.ones(BATCH), "sample_id": torch.arange(BATCH) + 10}


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_the_rows_that_a_gradient_is_no_number_for_are_named(micro):
    engine = RecordingEngine({"model": nn.Dropout()}, norms=[1.0, math.nan])
    plan, data = plan_of(micro=micro, log_every=3), bad_batches(1.0, math.nan, 2.0, -math.inf)
    asked = []

    def again(step):
        asked.append(step)
        return next(steps_of(data, plan)).micros

    with pytest.raises(NotANumberError) as raised:
        run(plan, engine=engine, data=data, again=again)
    assert asked == [2]
    assert str(raised.value) == (
        "step 2: the gradient of model is nan, since the loss of some samples is no finite number"
        " (sample 11; sample 13): mend or leave out these rows"
    )


def test_the_rows_are_looked_for_with_the_phase_and_the_modules_that_diverged():
    class Scales(AddsUp):
        def loss(self, phase, modules, batch):
            factor = modules["model"](torch.zeros(())) if phase == "second" else 1.0
            return super().loss(phase, modules, {**batch, "x": batch["x"] * factor})

    class Huge(nn.Module):
        def forward(self, x):
            return x + 1e38

    engine = RecordingEngine({"model": Huge()}, norms=[1.0, math.inf])
    plan, data = plan_of(), bad_batches(1.0, 2.0, 3.0, 4.0)
    with pytest.raises(NotANumberError, match=r"gradient of second is inf.* \(sample 13\): mend"):
        run(
            plan,
            objective=Scales(phases=("first", "second")),
            engine=engine,
            data=data,
            again=lambda step: next(steps_of(data, plan)).micros,
        )


def test_where_every_sample_gives_no_number_it_is_the_model_that_is_to_blame():
    with pytest.raises(NotANumberError, match=r"lower training\.optimizer\.learning_rate"):
        data = bad_batches(*[math.nan] * BATCH)
        run(
            plan_of(),
            engine=RecordingEngine(norms=[math.nan]),
            data=data,
            again=lambda step: next(steps_of(data, plan_of())).micros,
        )


@pytest.mark.parametrize(
    ("due", "noticed"),
    [({"log_every": 4}, 4), ({"check_replicas_every": 3}, 3), ({"evaluate": 3}, 3), ({"save": 3}, 3)],
)
def test_the_first_bad_step_is_named_when_next_something_is_due_and_nothing_is_done_then(due, noticed):
    fields = {"evaluate_every": due.pop("evaluate", 0), "checkpoint_every": due.pop("save", 100)}
    around = RecordingSurroundings()
    engine = RecordingEngine(norms=[1.0, math.nan, math.inf, 5.0], calls=around.calls)
    plan = plan_of(9, fields=fields, **{"log_every": 100, **due})
    with pytest.raises(NotANumberError, match="step 2: the gradient of model is nan"):
        loop.train(plan, engine, AddsUp(around.calls), steps_of(batches(), plan), around, 0)
    assert len([call for call in around.calls if call[0] == "step"]) == noticed
    assert around.calls[-2:] == [("again", 2), ("autocast ends",)]
    done = {name for name, *_ in around.calls[around.calls.index(("stop_requested", noticed)) :]}
    assert done <= {"stop_requested", "autocast", "autocast ends", "again"}


def test_fp16_skips_such_a_step_and_goes_on():
    outcome, around, _ = run(
        plan_of(2, precision="fp16"), engine=RecordingEngine(norms=[math.inf, 2.0], diverges=False)
    )
    assert outcome.step == 2
    assert around.metric("train/grad_norm") == {1: math.inf, 2: 2.0}


@pytest.mark.parametrize(
    ("precision", "scales", "skipped"), [("fp16", {2: 512.0}, {2: 1.0}), ("bf16", {}, {})]
)
def test_fp16_tells_its_scale_and_the_updates_that_were_not_made(precision, scales, skipped, monkeypatch):
    state = {"loss_scale/model": 512.0, "updates/model": 1.0}
    monkeypatch.setattr(RecordingEngine, "scalars", lambda self: state)
    _, around, _ = run(plan_of(2, precision=precision))
    assert {step: value for step, value in around.metric("train/loss_scale").items() if step == 2} == scales
    assert {
        step: value for step, value in around.metric("train/skipped_updates").items() if step == 2
    } == skipped


def test_replicas_that_differ_end_the_run_and_are_not_saved():
    around = RecordingSurroundings()
    engine, plan = RecordingEngine(differs="parameter model/w"), plan_of(3, check_replicas_every=2)
    with pytest.raises(InfrastructureError) as raised:
        loop.train(plan, engine, AddsUp(), steps_of(batches(), plan), around, 0)
    assert str(raised.value) == "after step 2 the workers' copies of parameter model/w are not equal"
    assert around.steps("save") == []


# -- evaluation ----------------------------------------------------------------------------------------------


class Modes(AddsUp):
    """Notes the modes in which it is called."""

    def __init__(self):
        super().__init__()
        self.modes = []

    def _note(self, modules):
        self.modes.append(({module.training for module in modules.values()}, torch.is_grad_enabled()))

    def loss(self, phase, modules, batch):
        self._note(modules)
        return super().loss(phase, modules, batch)

    def evaluate(self, modules, batch):
        self._note(modules)
        return super().evaluate(modules, batch)


def test_evaluation_is_between_steps_in_its_own_mode():
    modules = {"one": nn.Dropout(), "two": nn.Dropout()}
    objective, engine = Modes(), RecordingEngine(modules)
    run(
        plan_of(2, fields={"evaluate_every": 1}),
        objective=objective,
        engine=engine,
        evaluation=[{"x": torch.ones(1)}],
    )
    assert objective.modes == [({True}, True), ({False}, False)] * 2
    assert all(module.training for module in modules.values())


def test_modules_train_again_after_an_evaluation_that_failed():
    modules = {"model": nn.Dropout()}
    with pytest.raises(KeyError):
        loop.evaluate(RecordingEngine(modules), AddsUp(), iter([{}]))
    assert modules["model"].training


def test_evaluation_counts_each_sample_once():
    data = iter([{"x": torch.tensor([1.0, 2.0, 3.0])}, {"x": torch.tensor([10.0])}])
    assert loop.evaluate(RecordingEngine(), AddsUp(), data).values == {"loss": 4.0}
    assert loop.evaluate(RecordingEngine(), AddsUp(), iter([])).values == {}


class Classifies(AddsUp):
    """Its evaluation also says which classes were taken for which."""

    def evaluate(self, modules, batch):
        return super().evaluate(modules, batch) | {"confusion": (batch["confusion"], torch.tensor(1))}


def test_an_evaluation_has_what_the_job_asks_for_by_the_names_of_its_classes():
    plan = plan_of(2, fields={"evaluate_every": 2})
    asked = {"metrics": ("recall", "per_class", "confusion_matrix")}
    job = plan.job.model_copy(update={"objective": plan.job.objective.model_copy(update=asked)})
    parts = [torch.tensor([[1, 1], [0, 2]]), torch.tensor([[2, 0], [2, 0]])]
    evaluation = [{"x": torch.ones(2), "confusion": part} for part in parts]
    around = RecordingSurroundings(evaluation=evaluation)
    around.class_names = lambda: ("cat", "dog")
    plan = plan.model_copy(update={"job": job})
    loop.train(plan, RecordingEngine(), Classifies(), steps_of(batches(), plan), around, 0)
    assert around.metrics("val/recall") == {2: [0.75, 0.5, 0.625, 0.625]}
    assert list(around.metrics("val/recall/cat")) == [2] == list(around.metrics("val/recall/dog"))
    [(_, step, matrix)] = [call for call in around.calls if call[0] == "show_confusion"]
    assert (step, matrix.tolist()) == (2, [[3, 1], [2, 2]])


# -- what is logged, and how the loop ends -------------------------------------------------------------------


def test_means_are_over_the_steps_since_the_last_log():
    _, around, _ = run(plan_of(4, log_every=2, micro=2))
    assert around.metric("train/loss") == {1: 2.5, 2: 12.5, 4: (22.5 + 32.5) / 2}
    assert around.metric("train/seen") == {1: 3.0, 2: 13.0, 4: (22 + 24 + 32 + 34) / 4}


def test_phases_name_their_losses_and_norms():
    engine = RecordingEngine(norms=[1.0, 2.0, 3.0, 4.0])
    _, around, _ = run(plan_of(2, log_every=2), objective=AddsUp(phases=("a", "b")), engine=engine)
    assert around.metric("train/loss_a") == around.metric("train/loss_b") == {1: 2.5, 2: 12.5}
    assert around.metric("train/grad_norm_a") == {1: 1.0, 2: 3.0}
    assert around.metric("train/grad_norm_b") == {1: 2.0, 2: 4.0}


def test_metrics_have_one_name_and_are_saved_with_the_state_that_they_were_measured_at():
    evaluation = [{"x": torch.tensor([2.0, 4.0])}]
    plan = plan_of(3, log_every=3, fields={"evaluate_every": 2, "checkpoint_every": 1})
    outcome, around, _ = run(plan, evaluation=evaluation)
    step = {"train/grad_norm": 1.0, "train/learning_rate": 0.001, "train/epoch": 0.0}
    assert outcome.metrics == {"train/loss": 17.5, "train/seen": 19.0, "val/loss": 3.0, **step}
    assert [(one.step, one.values, one.seconds) for one in around.logged if not one.seconds] == [
        (2, {"val/loss": 3.0}, {}), (3, {"val/loss": 3.0}, {})
    ]  # fmt: skip
    assert [call for call in around.calls if call[0] == "save"] == [
        ("save", 1, {"train/loss": 2.5, "train/seen": 4.0, **step}),
        ("save", 2, {"val/loss": 3.0}),
        ("save", 3, outcome.metrics),
    ]  # fmt: skip


def test_the_outcome_has_what_was_measured_last_and_a_save_only_what_belongs_to_its_step():
    outcome, around, _ = run(plan_of(4, log_every=3, fields={"checkpoint_every": 2}), stop_at=2)
    step = {"train/grad_norm": 1.0, "train/learning_rate": 0.001, "train/epoch": 0.0}
    assert outcome.metrics == {"train/loss": 2.5, "train/seen": 4.0, **step}
    assert [call for call in around.calls if call[0] == "save"] == [("save", 2, {})]


@pytest.mark.parametrize(
    ("best", "mode", "saves"),
    [
        (0, "min", [3, 6, 8]),
        (1, "min", [2, 3, 6, 8]),
        (1, "max", [2, 3, 4, 6, 8]),
        (3, "min", [2, 3, 4, 6, 7, 8]),
    ],
)
def test_an_evaluation_that_is_one_of_the_best_is_saved(best, mode, saves):
    losses = {
        2: 1.0,
        3: 1.0,
        4: 3.0,
        5: math.nan,
        6: 3.0,
        7: 2.0,
        8: 9.0,
    }  # at 1: what no checkpoint may have
    around = RecordingSurroundings(ranking=Ranking(best=best, metric="val/loss", mode=mode))
    values = iter([math.inf, *losses.values()])
    around.evaluation = lambda: iter([{"x": torch.tensor([next(values)])}])
    plan = plan_of(8, log_every=100, fields={"evaluate_every": 1, "checkpoint_every": 3})
    loop.train(plan, RecordingEngine(), AddsUp(), steps_of(batches(), plan), around, 0)
    assert around.steps("save") == saves


def test_samples_that_can_not_be_made_lose_no_checkpoint(monkeypatch):
    around = RecordingSurroundings(evaluation=[{"x": torch.ones(1)}])

    def fail(step):
        raise RuntimeError("mat1 and mat2 must have the same dtype")

    monkeypatch.setattr(around, "show_samples", fail)
    plan = plan_of(4, fields={"evaluate_every": 2, "sample_every": 2, "checkpoint_every": 2})
    with pytest.raises(RuntimeError, match="same dtype"):
        loop.train(plan, RecordingEngine(), AddsUp(), steps_of(batches(), plan), around, 0)
    assert around.steps("save") == [2]


class Clock:
    """A clock that only those who take time move."""

    now = 0.0

    def __init__(self, monkeypatch):
        monkeypatch.setattr("time.perf_counter", lambda: self.now)

    def takes(self, seconds, result=None):
        def called(*_, **__):
            self.now += seconds
            return result

        return called


def test_every_second_is_charged_to_its_part(monkeypatch):
    clock = Clock(monkeypatch)
    around, engine, objective = RecordingSurroundings(), RecordingEngine(), AddsUp()
    for where, name, seconds, result in (
        (engine, "backward", 2, None), (engine, "step", 4, Update(torch.tensor(1.0), torch.tensor(False))), (objective, "after_step", 8, None),
        (around, "before_update", 16, None), (around, "stop_requested", 32, False), (around, "evaluation", 64, iter(())),
        (around, "show_samples", 128, None), (around, "save", 256, None), (objective, "units", 512, torch.tensor(1.0)),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, clock.takes(seconds, result))
    monkeypatch.setattr(engine, "micro_step", lambda *_, **__: torch.no_grad())
    objective.units_per_sample = None

    def slow(plan):
        for step in steps_of(batches(), plan):
            clock.now += 1
            yield step

    plan = plan_of(2, fields={"evaluate_every": 1, "sample_every": 1, "checkpoint_every": 1})
    loop.train(plan, engine, objective, slow(plan), around, 0)
    first, second = (one.seconds for one in around.logged if one.seconds)
    step = {"data_wait": 1, "forward_backward": 512 + 2, "optimizer": 4 + 8, "checkpoint": 16, "evaluate": 0}
    assert first == {**step, "samples": 0, "other": 32}
    assert second == {**step, "checkpoint": 256 + 16, "evaluate": 64, "samples": 128, "other": 0}
    values = around.logged[0].values
    wall = sum(first.values())
    assert {f"system/{part}_ms": 1e3 * seconds for part, seconds in first.items()}.items() <= values.items()
    assert values["system/step_ms"] == 1e3 * (wall - 16)
    assert values["system/samples_per_second"] == BATCH / wall
    assert values["system/data_wait_share"] == 1 / wall
    assert values["train/epoch"] == 0.0


def test_no_update_begins_before_a_save_has_let_it():
    _, around, _ = run(plan_of(fields={"checkpoint_every": 1}), objective=AddsUp(phases=("first", "second")))
    order = [name for name, *_ in around.calls if name in ("before_update", "save")]
    assert order == ["before_update", "before_update", "save"] * 4


# -- when it no longer helps -----------------------------------------------------------------------------------


class Evaluates(AddsUp):
    """Its evaluations give these losses, one after the other."""

    def __init__(self, losses):
        super().__init__()
        self._losses = iter(losses)

    def evaluate(self, modules, batch):
        return {"loss": (torch.tensor(next(self._losses)), torch.tensor(1))}


EARLY = StopEarlySpec(patience=2, min_delta=0.5)


def early(losses, patience, steps=12, start=0):
    plan = plan_of(steps, fields={"evaluate_every": 2, "checkpoint_every": 100})
    evaluation = [{"x": torch.ones(1)}]
    objective = Evaluates(losses)
    return run(plan, objective=objective, evaluation=evaluation, patience=patience, start=start)[:2]


def test_training_ends_after_so_many_evaluations_that_are_no_better_and_is_saved():
    outcome, around = early([5.0, 4.0, 3.8, 3.6, 0.0], Patience(EARLY, {}))
    assert (outcome.step, outcome.stopped) == (8, False)
    assert outcome.enough == "val/loss got no better in 2 evaluations (4 at best)"
    assert around.steps("save") == [8]


def test_what_gets_better_in_time_and_what_is_no_number_counts_as_it_should():
    outcome, _ = early([5.0, 4.8, 4.0, math.nan, 3.0, 2.0], Patience(EARLY, {}))
    assert (outcome.step, outcome.enough) == (12, "")


def test_a_resumed_run_waits_no_longer_than_one_that_was_never_ended():
    before = Patience(EARLY, {})
    early([5.0, 4.9], before, steps=4)
    outcome, _ = early([4.9, 0.0], Patience(EARLY, before.state()), start=4)
    assert outcome.step == 6
    ended = Patience(EARLY, {"best": 5.0, "without": 2})
    outcome, around = early([], ended, start=6)
    assert outcome.step == 6 and outcome.enough and not around.steps("save")


def test_the_last_evaluation_of_the_plan_is_no_early_end():
    outcome, around = early([5.0, 4.9, 4.8], Patience(EARLY, {}), steps=6)
    assert (outcome.step, outcome.enough, around.steps("save")) == (6, "", [6])


def test_whether_it_is_enough_is_asked_before_the_first_step_and_after_each_evaluation(monkeypatch):
    around, asked = RecordingSurroundings(evaluation=[{"x": torch.ones(1)}]), []
    monkeypatch.setattr(around, "enough", lambda measured: asked.append(measured) or "")
    plan = plan_of(4, log_every=100, fields={"evaluate_every": 2})
    loop.train(plan, RecordingEngine(), Evaluates([2.0, 1.0]), steps_of(batches(), plan), around, 0)
    assert asked[:2] == [{}, {"val/loss": 2.0}]
    assert len(asked) == 3 and asked[2]["val/loss"] == 1.0
