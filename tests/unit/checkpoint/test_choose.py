"""The checkpoint that a person means, and what it is called."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from checkpoint_tools import ranges, tensors

from orchestrator.checkpoint import Checkpoints, chosen, committed, described, next_attempt
from orchestrator.errors import NotFoundError, SpecError

BEST_BY = {"metric": "val/loss", "mode": "min"}


def save(root: Path, losses: dict[int, float | None], mode: str = "min") -> None:
    """Checkpoints of a new attempt, by step."""
    checkpoints = Checkpoints(str(root), attempt=next_attempt(str(root)), rank=0, world_size=1)
    for step, loss in losses.items():
        metrics = {} if loss is None else {"val/loss": loss}
        meta = {"metrics": metrics, "best_by": {**BEST_BY, "mode": mode}}
        checkpoints.save(step, ranges(tensors(step)), meta, asynchronous=False)


@pytest.mark.parametrize(("mode", "best"), [("min", (2, 1, "0.1")), ("max", (4, 2, "0.9"))])
def test_the_best_the_newest_and_that_of_a_step(
    tmp_path: Path, mode: str, best: tuple[int, int, str]
) -> None:
    save(tmp_path, {1: math.nan, 2: 0.1, 3: 0.3, 4: 0.5}, mode)
    save(tmp_path, {3: 0.4, 4: 0.9, 5: None}, mode)  # went back to step 2
    root = str(tmp_path)
    step, attempt, value = best
    found = chosen(root, "best")
    assert (found.step, found.attempt) == (step, attempt)
    assert described(found, "best") == f"step {step}, the best by val/loss ({value})"
    newest = chosen(root)
    assert (newest.step, described(newest, "newest")) == (5, "step 5, the newest")
    third = chosen(root, "3")
    assert (third.step, third.attempt, described(third, "3")) == (3, 2, "step 3")


def test_what_is_not_there_is_said_with_what_is(tmp_path: Path) -> None:
    root = str(tmp_path)
    for which, what in (("newest", "no good checkpoint in"), ("best", "at all"), ("7", "of step 7")):
        with pytest.raises(NotFoundError, match=what):
            chosen(root, which)
    save(tmp_path, {1: math.inf, 2: None})
    with pytest.raises(
        NotFoundError, match=r"no checkpoint with a finite val/loss .*; steps that have one: 1, 2$"
    ):
        chosen(root, "best")
    with pytest.raises(NotFoundError, match=r"no checkpoint of step 7 .*; steps that have one: 1, 2$"):
        chosen(root, "7")
    for which in ("latest", "-1", "1.5", "", "²"):
        with pytest.raises(SpecError, match=r"is no checkpoint: give best, newest, or the number of a step"):
            chosen(root, which)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.5])
def test_a_checkpoint_keeps_any_float(tmp_path: Path, value: float) -> None:
    save(tmp_path, {1: value})
    (found,) = committed(str(tmp_path))
    assert repr(found.meta["metrics"]["val/loss"]) == repr(value)
