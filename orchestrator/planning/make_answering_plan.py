"""Question -> the plan of the launch that answers it."""

from __future__ import annotations

from typing import Any

from orchestrator.planning.plan import Plan, ResolvedJob
from orchestrator.planning.question import EvaluateQuestion, PredictQuestion
from orchestrator.planning.shard_group import check_shard_group
from orchestrator.runs import new_run_id

_LONGEST_NAME = 54
_SECONDS_TO_STOP = 1.0
"""An evaluation has nothing to save."""


def question_to_plan(
    trained: Plan,
    question: PredictQuestion | EvaluateQuestion,
    *,
    cluster: str,
    root: str,
    workers: int | None = None,
) -> Plan:
    """The plan of the launch that answers, by workers like those that trained. Pure but for its id, which is a fresh one.

    Args:
        trained: of the run that trained the model.
        question: what is asked.
        cluster: name of the profile of the cluster that answers.
        root: of that cluster's storage.
        workers: that hold the model. Default: as many as trained it; where their number may change, the fewest.

    Raises:
        SpecError: the run's strategy can't spread the model over so many.
    """
    run_id = new_run_id(f"{question.kind}-{trained.job.name}"[:_LONGEST_NAME].rstrip("-"))
    storage = f"{root}/runs/{run_id}"
    if isinstance(question, PredictQuestion) and not question.output:
        question = question.model_copy(update={"output": f"{storage}/predictions"})
    count = workers or trained.least_workers
    return trained.model_copy(
        update={
            "run_id": run_id,
            "storage": storage,
            "cache": f"{root}/cache",
            "cluster": cluster,
            "tracking_uri": "",
            "job": _job_that_answers(trained.job, question, count),
            "world_size": count,
            "sizes": (),
            "total_steps": 0,
            "question": question,
        }
    )


def _job_that_answers(
    job: ResolvedJob, question: PredictQuestion | EvaluateQuestion, workers: int
) -> ResolvedJob:
    # the code that made the model is kept with its run, so no folder travels
    changes: dict[str, Any] = {
        "scaling": job.scaling.model_copy(update={"workers": workers}),
        "environment": job.environment.model_copy(update={"working_dir": None}),
    }
    if question.kind == "predict":
        return job.model_copy(update=changes)
    changes["recovery"] = job.recovery.model_copy(update={"stop_grace": _SECONDS_TO_STOP})
    evaluates = job.model_copy(update=changes)
    check_shard_group(evaluates)
    return evaluates
