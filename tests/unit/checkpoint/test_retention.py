"""Which checkpoints stay, whatever was saved, measured or left unfinished."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoint_tools import ranges, tensors
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.checkpoint import Checkpoint, Checkpoints, committed, next_attempt
from orchestrator.checkpoint.retention import kept

METRICS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {}, optional={"loss": st.sampled_from([-1.5, 0, 0.5, 2, 2.0, math.nan, math.inf, -math.inf])}
    ),
    st.just({"loss": "0.1"}),
    st.just({"accuracy": 0.1}),
)


@given(st.lists(METRICS, max_size=7), st.integers(0, 8), st.integers(0, 8), st.sampled_from(["min", "max"]))
def test_the_newest_and_the_best_of_any_checkpoints_stay(
    metrics: list[dict[str, Any] | None], last: int, best: int, mode: str
) -> None:
    there = [
        Checkpoint(step, 1, f"/{step}", {} if measured is None else {"metrics": measured})
        for step, measured in zip(range(len(metrics), 0, -1), metrics, strict=True)
    ]
    stay = {c.step for c in there if c.step > len(there) - last}
    comparable = [
        (value if mode == "min" else -value, -c.step)
        for c in there
        if isinstance(value := c.meta.get("metrics", {}).get("loss"), int | float) and math.isfinite(value)
    ]
    stay |= {-negative for _, negative in sorted(comparable)[:best]}
    result = kept(there, last=last, best=best, metric="loss", mode=mode)
    assert [c.step for c in result] == sorted(stay, reverse=True)


def saved(root: Path, losses: dict[int, float | None]) -> Checkpoints:
    """A new attempt's checkpoints, by step."""
    checkpoints = Checkpoints(str(root), attempt=next_attempt(str(root)), rank=0, world_size=1)
    for step, loss in losses.items():
        meta = {} if loss is None else {"metrics": {"loss": loss}}
        checkpoints.save(step, ranges(tensors(step)), meta, asynchronous=False)
    return checkpoints


def there(root: Path) -> list[tuple[int, int]]:
    return [(checkpoint.step, checkpoint.attempt) for checkpoint in committed(str(root))]


@pytest.mark.parametrize(
    ("last", "best", "mode", "stay"),
    [
        (0, 0, "min", [(4, 2)]),
        (1, 0, "min", [(4, 2)]),
        (2, 0, "min", [(4, 2), (3, 2)]),
        (3, 0, "min", [(4, 2), (3, 2), (3, 1)]),
        (1, 1, "min", [(4, 2), (2, 1)]),
        (1, 1, "max", [(4, 2), (1, 1)]),
        (1, 2, "min", [(4, 2), (3, 1), (2, 1)]),
        (9, 0, "min", [(4, 2), (3, 2), (3, 1), (2, 1), (1, 1)]),
    ],
)
def test_pruning_keeps_the_newest_always_and_the_best(
    tmp_path: Path, last: int, best: int, mode: str, stay: list[tuple[int, int]]
) -> None:
    saved(tmp_path, {1: 0.9, 2: 0.1, 3: 0.2})
    saved(tmp_path, {3: 0.5, 4: None}).prune(last, best, "loss", mode)
    assert there(tmp_path) == stay
    assert sorted(path.name for path in tmp_path.glob("step-*")) == sorted(
        f"step-{step:08d}.attempt-{attempt}" for step, attempt in stay
    )


def test_only_what_earlier_attempts_left_unfinished_is_removed(tmp_path: Path) -> None:
    saved(tmp_path, {1: None})
    second = saved(tmp_path, {2: None})
    unfinished = [tmp_path / f"step-00000009.attempt-{attempt}" for attempt in (1, 2, 3)]
    for folder in unfinished:
        (folder / "rank-00000.safetensors").mkdir(parents=True)
    second.prune(9, 0, "loss", "min")
    assert [folder.exists() for folder in unfinished] == [False, True, True]
    assert there(tmp_path) == [(2, 2), (1, 1)]


def test_what_can_not_be_removed_is_named_and_is_no_checkpoint_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = saved(tmp_path, {1: None, 2: None, 3: None, 4: None})
    removing = shutil.rmtree

    def remove_but_the_third(path: Any, *args: Any, **kwargs: Any) -> None:
        if "00000003" in str(path):
            raise OSError("the disk is busy")
        removing(path, *args, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", remove_but_the_third)
    checkpoints.prune(1, 0, "loss", "min")
    assert caplog.messages == ["checkpoint step-00000003.attempt-1 could not be removed: the disk is busy"]
    assert there(tmp_path) == [(4, 1)]
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [
        "step-00000003.attempt-1",
        "step-00000004.attempt-1",
    ]
