"""The launches of a run: which may follow, which is the newest, and what an id stands for, and what may be deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from orchestrator.errors import NotFoundError, SpecError
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord
from orchestrator.runs import RunState, RunStatus, run_id_problem

Launched = TypeVar("Launched")


def next_launch(status: RunStatus) -> int:
    """Number of the launch that resumes a run. Raises SpecError where it has not ended."""
    refuse_living(status)
    return status.launch + 1


def refuse_nothing_left(status: RunStatus, plan: Plan) -> None:
    """Raises SpecError where the plan of a run's next launch leaves nothing to do. One that stopped early may go on, as far
    as its patience is longer by now.
    """
    if status.state is RunState.SUCCEEDED and plan.question is not None:
        raise SpecError(f"run {status.run_id} has ended with its answer: {status.message}")
    if (
        status.state is RunState.SUCCEEDED
        and plan.total_steps <= status.total_steps
        and plan.job.training.stop_early is None
    ):
        raise SpecError(
            f"run {status.run_id} has taken all its {status.total_steps} steps; nothing is left to resume, but it can"
            " train longer: --set training.epochs=N, or training.max_steps=N"
        )


def folder_of(run_id: str) -> str:
    """Where a run's files lie in a cluster's storage. Raises NotFoundError where no run can be called so."""
    if problem := run_id_problem(run_id):
        raise NotFoundError(f"no run can be called so: {problem}")
    return f"runs/{run_id}"


def refuse_living(status: RunStatus) -> None:
    """Raises SpecError where a run has not ended."""
    if not status.state.is_final:
        raise SpecError(f"run {status.run_id} has not ended: it is {status.state}; stop it first, or wait")


def refuse_forgotten(status: RunStatus | None, run_id: str, cluster: str) -> None:
    """What a run that its cluster has forgotten says of itself must be an end: raises SpecError, or NotFoundError where
    there is nothing of it.
    """
    if status is None:
        raise NotFoundError(f"cluster {cluster} knows no run {run_id}, and its storage has none")
    if not status.state.is_final:
        raise SpecError(
            f"cluster {cluster} knows no run {run_id}, and its own record says that it is {status.state}: where no other"
            " cluster runs it, remove its folder in the storage"
        )


def refuse_deleted(record: RunRecord, run_id: str) -> None:
    """Raises SpecError where a run's deletion was begun: it can't go on, and its id is not free yet."""
    if record.is_deleted:
        raise SpecError(f"run {run_id} is being deleted; trainwright delete {run_id} --yes ends that")


def refuse_another_job(plan: Plan, earlier: Plan) -> None:
    """Submitting a plan again is harmless. Raises SpecError where its id stands for another one, or files elsewhere."""
    if plan.digest != earlier.digest or plan.base_dir != earlier.base_dir:
        raise SpecError(
            f"run {plan.run_id} is another job that was submitted before, with other fields or from another folder;"
            " choose another id, or leave --id out for a fresh one"
        )


def newest_launches(
    launched: Iterable[Launched], run_of: Callable[[Launched], str], launch_of: Callable[[Launched], int]
) -> list[Launched]:
    """Of each run, what stands for its newest launch."""
    newest: dict[str, Launched] = {}
    for one in launched:
        run = run_of(one)
        if run not in newest or launch_of(one) > launch_of(newest[run]):
            newest[run] = one
    return list(newest.values())
