"""From where an attempt goes on, and what must not have changed since then."""

from __future__ import annotations

import logging
from collections.abc import Collection

from orchestrator import checkpoint, data
from orchestrator.checkpoint import Checkpoint
from orchestrator.data import Prepared
from orchestrator.errors import DataError, SpecError
from orchestrator.own_code import OwnCode
from orchestrator.planning.plan import Plan
from orchestrator.rank import Rank
from orchestrator.records import RunRecord

logger = logging.getLogger("orchestrator")


def where_to_go_on(plan: Plan, root: str, launch: int) -> Checkpoint | None:
    """The newest good checkpoint. As long as the launch has none of its own: the one that it was told to start from.

    Raises:
        NotFoundError: there is no such checkpoint.

    """
    newest = checkpoint.newest_good(root)
    if newest is None or newest.meta["launch"] >= launch or plan.resume_from == checkpoint.NEWEST:
        return newest
    found = checkpoint.chosen(root, plan.resume_from)
    logger.info(
        "launch %d goes back to the checkpoint of %s", launch, checkpoint.described(found, plan.resume_from)
    )
    return found


def go_on_from(
    newest: Checkpoint | None, rank: Rank, prepared: Prepared, attempt: int, code: OwnCode
) -> tuple[int, Collection[int]]:
    """Load what there is; the step to go on from, and the samples that were left out up to there.

    Raises:
        DataError: the training data has changed, and that is not accepted, or its numbers stand for something else.
        SpecError: the job's own code has changed, and that is not accepted.

    """
    if newest is None:
        if rank.number == 0 and (again := _taken_again(rank.plan.storage, 0)):
            logger.info("attempt %d begins anew, since there is no checkpoint%s", attempt, again)
        return 0, ()
    _check_code(newest, rank, code)
    change = data.describe_change(newest.meta["identity"], prepared.identity)
    if change is not None:
        said = f"the training data is not what the checkpoint of step {newest.step} was trained on: {change}"
        if not rank.plan.job.recovery.accept_changed_data:
            raise DataError(f"{said}; put it back, or go on with --set recovery.accept_changed_data=true")
        meaning = data.changed_meaning(newest.meta["identity"]["meaning"], prepared.identity["meaning"])
        if meaning is not None:
            raise DataError(
                f"{said}, and what the model learned of it stands for something else: {meaning}; put it back, or start"
                " another run"
            )
        if rank.number == 0:
            logger.warning("%s; going on, as recovery.accept_changed_data says", said)
    rank.load(newest)
    if rank.number == 0:
        again = _taken_again(rank.plan.storage, newest.step)
        logger.info("attempt %d goes on from the checkpoint of step %d%s", attempt, newest.step, again)
    return newest.step, newest.meta.get("skipped", ()) if change is None else ()


def check_left_out(newest: Checkpoint | None, left_out: Collection[int]) -> None:
    """Raises SpecError where a checkpoint was trained with a step that is to be left out, or without one that is not."""
    if newest is None:
        return
    trained_without = set(newest.meta["left_out"])
    if changed := trained_without ^ {step for step in left_out if step <= newest.step}:
        raise SpecError(
            f"recovery.leave_out: step {min(changed)} lies before the checkpoint of step {newest.step}, which was trained"
            f" with{'out' if min(changed) in trained_without else ''} it; resume from an older one (--from), or leave that as it was"
        )


def _taken_again(storage: str, step: int) -> str:
    """What an attempt that goes on after a step has lost, as the end of a sentence; empty where that is nothing."""
    reached = RunRecord(storage).reached()
    return f"; steps {step + 1} to {reached} are taken again" if reached > step else ""


def _check_code(newest: Checkpoint, rank: Rank, code: OwnCode) -> None:
    """Raises SpecError where the job's own code is not what the checkpoint was trained with, and that is not accepted."""
    if newest.meta["code"] == code.digest:
        return
    kept = RunRecord(rank.plan.storage).code(newest.meta["code"])
    said = (
        f"the job's own code is not what the checkpoint of step {newest.step} was trained with:"
        f" {', '.join(kept.differs_in(code))} changed"
    )
    if not rank.plan.job.recovery.accept_changed_code:
        raise SpecError(f"{said}; put it back, or go on with --set recovery.accept_changed_code=true")
    if rank.number == 0:
        logger.warning("%s; going on, as recovery.accept_changed_code says", said)
