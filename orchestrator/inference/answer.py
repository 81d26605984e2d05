"""On the driver of a launch that asks a trained model: from the plan's question to what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from orchestrator import checkpoint, events
from orchestrator.checkpoint import Checkpoint
from orchestrator.data import Inputs
from orchestrator.errors import InfrastructureError
from orchestrator.inference import kept
from orchestrator.inference.evaluate import (
    evaluating_plan,
    evaluation_of,
    going_on,
    held_out_at,
    measure,
    order_of,
    with_metrics,
)
from orchestrator.inference.handing_out import handed_out, options_of
from orchestrator.inference.predict import predict
from orchestrator.inference.results import Evaluation, Predicted
from orchestrator.inference.task import make_task
from orchestrator.own_code import OwnCode
from orchestrator.planning.plan import Plan
from orchestrator.planning.question import EvaluateQuestion, PredictQuestion, TrainedModel
from orchestrator.ray_session import RaySession
from orchestrator.storage import store_at
from orchestrator.storage.faults import first_line
from orchestrator.telemetry.evaluations import is_tracked, track

_ASKED = "asked-checkpoint"
"""Which checkpoint the first launch has taken, for those that go on: the run may have saved newer ones since."""


class _Asked(NamedTuple):
    """The model that is asked."""

    plan: Plan
    saved: Checkpoint
    code: OwnCode


def answered(
    plan: Plan, ray: RaySession, launch: int, on_part: Callable[[int, int], None]
) -> Predicted | Evaluation:
    """Answer the plan's question by workers of the session, and say so in an event.

    Args:
        plan: with the question.
        ray: has room for the plan's workers.
        launch: 1, and one more for each resume.
        on_part: called with the files of predictions that are there, and the files of all.

    Raises:
        SpecError, DataError, NotFoundError, CheckpointError: as ``predict`` and ``evaluate``.
        ray.train.TrainingFailedError: the workers failed, see ``recovery.incidents``.
    """
    question = plan.question
    assert question is not None
    events.emit("stage", doing="reading the model")
    trained = kept.plan_of(question.of.storage, question.of.run)
    saved = _checkpoint(plan, question.of)
    asked = _Asked(trained, saved, kept.code_of(question.of.storage, question.of.run, saved))
    found = (
        _predicted(plan, question, asked, on_part)
        if question.kind == "predict"
        else _evaluated(plan, question, asked, ray, launch)
    )
    events.emit("answer", kind=question.kind, content=found.model_dump(mode="json"))
    return found


def _checkpoint(plan: Plan, of: TrainedModel) -> Checkpoint:
    store = store_at(plan.storage)
    if store.exists(_ASKED):
        return checkpoint.checkpoint_at(store.read(_ASKED).decode())
    if "/" in of.which:
        saved = checkpoint.checkpoint_at(of.which)
    else:
        saved = checkpoint.chosen(f"{of.storage}/checkpoints", of.which)
    store.write(_ASKED, saved.path.encode())
    return saved


def _predicted(
    plan: Plan, question: PredictQuestion, asked: _Asked, on_part: Callable[[int, int], None]
) -> Predicted:
    events.emit("stage", doing="looking at the data")
    task = make_task(
        asked.plan,
        asked.saved,
        Inputs.model_validate_json(kept.inputs_of(question.of.storage, question.of.run)),
        asked.code,
        question.data,
        question.output,
        cache=plan.cache,
        keep=question.keep,
        tokens=question.tokens,
        seed=question.seed,
        temperature=question.temperature,
        averaged=question.of.averaged,
        device="cuda" if plan.job.scaling.gpus_per_worker else "cpu",
    )
    events.emit("stage", doing="starting the workers")
    options = options_of(plan)

    def write(parts: Any) -> Any:
        return handed_out(task.model_dump_json(), parts, min(plan.world_size, len(parts)), options)

    return predict(task, write, on_part=on_part)


def _evaluated(
    plan: Plan, question: EvaluateQuestion, asked: _Asked, ray: RaySession, launch: int
) -> Evaluation:
    events.emit("stage", doing="preparing the data")
    there = evaluating_plan(with_metrics(asked.plan, question.metrics), plan.world_size)
    there = there.model_copy(update={"cache": plan.cache})
    held_out, name = held_out_at(there, question.data)
    order = order_of(there, asked.saved, held_out, averaged=question.of.averaged)
    events.emit("stage", doing="starting the workers")
    with going_on(order, plan.storage) as order:
        values = ray.on_workers(_measure, {**order, "code": dict(asked.code.files)}, launch=launch)
    found = evaluation_of(order, asked.saved, name, values)
    try:
        if is_tracked(question.of.storage):
            track(question.of.storage, found.step, found.tracked)
    except (InfrastructureError, OSError) as error:
        events.emit("stage", doing=f"MLflow is not told yet: {first_line(error)}")
    return found


def _measure(order: Mapping[str, Any]) -> dict[str, float]:
    from orchestrator.recovery.notice import NoticeBoard

    board = NoticeBoard("")
    with OwnCode(order["code"]).importable():
        return measure(order, lambda: bool(board.asked_to_leave))
