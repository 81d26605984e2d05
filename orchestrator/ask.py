"""Predictions and metrics of a trained model where its run was trained: a launch of its own on that cluster.

It is followed, stopped, gone on with after a kill and deleted like a run that trains. On this machine: ``StoredRun.predict`` and
``StoredRun.evaluate``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from orchestrator import events, sdk
from orchestrator.clusters.shared.submitted import HERE, recall
from orchestrator.errors import NotFoundError
from orchestrator.inference.results import RESULTS, Evaluation, Predicted
from orchestrator.planning.make_answering_plan import question_to_plan
from orchestrator.planning.plan import Plan
from orchestrator.planning.question import EvaluateQuestion, PredictQuestion, TrainedModel
from orchestrator.sdk import Run
from orchestrator.spec.load import home, load_profile
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import absolute
from orchestrator.stored_run import CheckpointRun, StoredRun, named_from_here


def place_of(trained: StoredRun, cluster: str | ClusterProfile | None = None) -> str | ClusterProfile | None:
    """Where a model is asked: the cluster of its run, or, of a checkpoint, the one that is named; None: this machine."""
    place = cluster or (recall(trained.id) if isinstance(trained, Run) else HERE)
    return None if _profile(place).kind == "local" else place


def predict(
    trained: StoredRun,
    data: str | os.PathLike[str] | Iterable[str],
    output: str | os.PathLike[str] | None = None,
    *,
    cluster: str | ClusterProfile,
    which: str = "newest",
    averaged: bool = False,
    workers: int | None = None,
    keep: Iterable[str] | None = None,
    tokens: int | None = None,
    seed: int | None = None,
    temperature: float | None = None,
) -> Run:
    """Start a launch that writes what a model says of each row of some files, and return at once. Each row is answered once,
    whatever dies meanwhile. ``answer_of`` says what came of it.

    Args:
        trained: a run, or one of its checkpoints.
        data: as for ``StoredRun.predict``, as the cluster reads it.
        output: the same, as the cluster reaches it. Default: ``predictions`` beside the launch's records.
        cluster: that answers.
        which: the checkpoint.
        averaged: by the moving averages of its weights.
        workers: that hold the model. Default: as many as trained it. Each has the CPUs and the GPU of one of those.
        keep: columns of the data beside the predictions.
        tokens: that a language model writes at most.
        seed: of what it draws.
        temperature: at which it draws.

    Raises:
        SpecError: the model makes no predictions, or has no averages.
        ResourcesError: the cluster never has room for so many workers.
    """
    from orchestrator.inference.task import refuse_unanswerable

    plan = _plan_of(trained)
    refuse_unanswerable(plan, averaged=averaged)
    question = PredictQuestion(
        of=_model(trained, plan, which, averaged=averaged),
        data=named_from_here(data),
        output="" if output is None else absolute(os.fspath(output), str(Path.cwd())),
        keep=None if keep is None else tuple(keep),
        tokens=tokens,
        seed=seed,
        temperature=temperature,
    )
    return _asked(plan, question, cluster, workers)


def evaluate(
    trained: StoredRun,
    data: str | os.PathLike[str] | Iterable[str] | None = None,
    *,
    cluster: str | ClusterProfile,
    which: str = "newest",
    averaged: bool = False,
    metrics: Iterable[str] = (),
    workers: int | None = None,
) -> Run:
    """Start a launch that measures a model by the metrics of its training, and tells its record in MLflow; return at once.

    Args:
        trained: a run, or one of its checkpoints.
        data: as for ``StoredRun.evaluate``, as the cluster reads it. Default: what the run itself evaluates on.
        cluster: that answers.
        which: the checkpoint.
        averaged: with the moving averages of its weights.
        metrics: more than its training measures.
        workers: that share the samples, by the run's strategy. Default: as many as trained it.

    Raises:
        SpecError: it has no averages, its objective no such metric, or its strategy can't spread it over so many workers.
        ResourcesError: as ``predict``.
    """
    from orchestrator.inference.evaluate import with_metrics
    from orchestrator.inference.task import refuse_without_averages

    plan, more = _plan_of(trained), tuple(metrics)
    with_metrics(plan, more)
    if averaged:
        refuse_without_averages(plan)
    question = EvaluateQuestion(
        of=_model(trained, plan, which, averaged=averaged),
        data=None if data is None else named_from_here(data),
        metrics=more,
    )
    return _asked(plan, question, cluster, workers)


def answer_of(asked: Run) -> Predicted | Evaluation:
    """What came of a launch that has ended. Raises NotFoundError where nothing did."""
    for line in asked.cluster.logs(asked.id):
        event = events.parse(line)
        if event and event["event"] == "answer":
            found: Predicted | Evaluation = RESULTS[event["kind"]].model_validate(event["content"])
            return found
    raise NotFoundError(f"{asked.id} has no answer: {asked.status().message}")


def _plan_of(trained: StoredRun) -> Plan:
    return trained.cluster.plan(trained.id) if isinstance(trained, Run) else trained.plan()


def _model(trained: StoredRun, plan: Plan, which: str, *, averaged: bool) -> TrainedModel:
    if isinstance(trained, CheckpointRun):
        which = trained.checkpoint(which).path
    return TrainedModel(run=plan.run_id, storage=plan.storage, which=which, averaged=averaged)


def _asked(
    plan: Plan,
    question: PredictQuestion | EvaluateQuestion,
    cluster: str | ClusterProfile,
    workers: int | None,
) -> Run:
    profile = _profile(cluster)
    root = profile.storage or str(home())
    return sdk.submit(
        question_to_plan(plan, question, cluster=profile.name, root=root, workers=workers), cluster
    )


def _profile(cluster: str | ClusterProfile) -> ClusterProfile:
    return cluster if isinstance(cluster, ClusterProfile) else load_profile(cluster)
