"""The checkpoint that a person means: the newest, the best, or that of a step."""

from __future__ import annotations

from orchestrator.checkpoint.find import committed, newest_good
from orchestrator.checkpoint.format import Checkpoint
from orchestrator.checkpoint.retention import by_cost, metrics_of
from orchestrator.errors import NotFoundError, SpecError

NEWEST, BEST = "newest", "best"


def chosen(root: str, which: str = NEWEST) -> Checkpoint:
    """One of the checkpoints below ``root``; of several of one step the last that was written.

    Args:
        root: path or URI of a run's checkpoints.
        which: ``newest`` (whose every byte is looked at), ``best`` by the metric that the run keeps checkpoints by,
            or a step's number.

    Raises:
        SpecError: ``which`` is none of these.
        NotFoundError: there is no such checkpoint; names those there are.
        CheckpointError: the storage can't be opened.

    """
    if which not in (NEWEST, BEST) and not (which.isascii() and which.isdigit()):
        raise SpecError(f"{which!r} is no checkpoint: give best, newest, or the number of a step")
    if which == NEWEST:
        newest = newest_good(root)
        if newest is None:
            raise NotFoundError(f"there is no good checkpoint in {root}")
        return newest
    there = committed(root)
    if which == BEST:
        found, wanted = _best_of(there)
    else:
        found, wanted = next((one for one in there if one.step == int(which)), None), f"of step {which}"
    if found is None:
        steps = ", ".join(str(step) for step in sorted({one.step for one in there})) or "none"
        raise NotFoundError(f"there is no checkpoint {wanted} in {root}; steps that have one: {steps}")
    return found


def described(saved: Checkpoint, which: str) -> str:
    """``step 10, the best by val/loss (0.25)``: what to call it to a person."""
    if which != BEST:
        return f"step {saved.step}" + (", the newest" if which == NEWEST else "")
    metric = saved.meta["best_by"]["metric"]
    return f"step {saved.step}, the best by {metric} ({metrics_of(saved)[metric]:.6g})"


def _best_of(there: list[Checkpoint]) -> tuple[Checkpoint | None, str]:
    """The best, by what the newest says that it is kept by; and how the one that is looked for is called."""
    if not there:
        return None, "at all"
    by = there[0].meta["best_by"]
    ranked = by_cost(there, by["metric"], by["mode"])
    return (ranked[0] if ranked else None), f"with a finite {by['metric']}"
