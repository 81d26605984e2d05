"""The launches of a run: which may follow, which is the newest, and what an id stands for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from orchestrator.errors import SpecError
from orchestrator.planning.plan import Plan
from orchestrator.runs import RunState, RunStatus

Launched = TypeVar("Launched")


def next_launch(status: RunStatus) -> int:
    """Number of the launch that resumes a run. Raises SpecError where it has not ended or has nothing left to do."""
    if not status.state.is_final:
        raise SpecError(f"run {status.run_id} has not ended: it is {status.state}; stop it first, or wait")
    if status.state is RunState.SUCCEEDED:
        raise SpecError(
            f"run {status.run_id} has taken all its {status.total_steps} steps; nothing is left to resume"
        )
    return status.launch + 1


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
