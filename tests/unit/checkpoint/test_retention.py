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
from orchestrator.checkpoint.retention import Ranking, all_but_the_best, kept
from orchestrator.storage import store_at

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


def ranking(*losses: float | None, best: int = 1, mode: str = "min") -> Ranking:
    """Of checkpoints of the steps 1, 2, ..., of which the last two are added and the others were there."""
    measured = {step: {} if loss is None else {"loss": loss} for step, loss in enumerate(losses, 1)}
    before = [Checkpoint(step, 1, "", {"metrics": measured[step]}) for step in list(measured)[:-2]]
    made = Ranking(best=best, metric="loss", mode=mode, checkpoints=before)
    for step in list(measured)[-2:]:
        made.add(step, measured[step])
    return made


@pytest.mark.parametrize(
    ("losses", "mode", "first"),
    [
        ((), "min", None),
        ((None, None, None), "min", None),
        ((math.nan, math.inf, None), "max", None),
        ((0.5, 0.25, 0.75), "min", (2, 0.25)),
        ((0.5, 0.25, 0.75), "max", (3, 0.75)),
        ((0.25, 0.5, 0.75), "min", (1, 0.25)),
        ((0.75, 0.5, 0.25), "max", (1, 0.75)),
        ((0.5, 0.5, 0.5, 0.75), "min", (3, 0.5)),
        ((0.5, 0.5, 0.5, 0.25), "max", (3, 0.5)),
        ((None, None, -0.5), "min", (3, -0.5)),
    ],
)
@pytest.mark.parametrize("best", [1, 2, 9])
def test_the_first_is_the_best_and_of_equals_the_newer(
    losses: tuple[float | None, ...], mode: str, first: tuple[int, float] | None, best: int
) -> None:
    assert ranking(*losses, best=best, mode=mode).first() == first


@pytest.mark.parametrize(
    ("best", "mode", "loss", "admitted"),
    [
        (3, "min", 9.0, False),
        (3, "min", 3.0, False),
        (3, "min", 2.5, True),
        (3, "max", 1.5, True),
        (3, "max", 1.0, False),
        (4, "min", 9.0, True),
        (4, "min", math.nan, False),
        (4, "min", None, False),
        (0, "min", 0.0, False),
    ],
)
def test_only_what_is_better_or_has_room_is_among_the_best(
    best: int, mode: str, loss: float | None, admitted: bool
) -> None:
    of_three = ranking(1.0, 3.0, None, 2.0, best=best, mode=mode)
    assert of_three.admits({} if loss is None else {"loss": loss}) is admitted


def ended(root: Path, attempt: int, mode: str, losses: dict[int, float | None]) -> None:
    """An attempt's checkpoints, by step, and one that it left unfinished."""
    checkpoints = Checkpoints(str(root), attempt=attempt, rank=0, world_size=1)
    for step, loss in losses.items():
        metrics = {"other": -step} if loss is None else {"loss": loss, "other": -step}
        meta = {"metrics": metrics, "best_by": {"metric": "loss", "mode": mode}}
        checkpoints.save(step, ranges(tensors(step)), meta, asynchronous=False)
    (root / f"step-00000099.attempt-{attempt}").mkdir()


@pytest.mark.parametrize(
    ("mode", "losses", "best"),
    [
        ("min", {1: 0.5, 2: 0.25, 3: 0.75}, (2, 2)),
        ("max", {1: 0.5, 2: 0.25, 3: 0.75}, (3, 2)),
        ("min", {1: 0.5, 2: 0.25, 3: 0.25}, (3, 2)),
        ("min", {2: None, 3: math.nan}, (1, 1)),
        ("max", {2: 0.25}, (1, 1)),
    ],
)
def test_of_an_ended_run_all_goes_but_the_best_by_what_the_newest_asks_for(
    tmp_path: Path, mode: str, losses: dict[int, float | None], best: tuple[int, int]
) -> None:
    ended(tmp_path, 1, "max" if mode == "min" else "min", {1: 0.5})
    ended(tmp_path, 2, mode, losses)
    newest_first = [(99, 2), *((step, 2) for step in sorted(losses, reverse=True)), (99, 1), (1, 1)]
    assert all_but_the_best(store_at(str(tmp_path))) == [
        f"step-{step:08d}.attempt-{attempt}" for step, attempt in newest_first if (step, attempt) != best
    ]


def test_of_an_ended_run_that_measured_nothing_the_newest_stays(tmp_path: Path) -> None:
    store = store_at(str(tmp_path))
    assert all_but_the_best(store) == []
    (tmp_path / "step-00000099.attempt-1").mkdir()
    assert all_but_the_best(store) == []
    ended(tmp_path, 2, "min", {1: None, 2: None})
    assert all_but_the_best(store) == [
        "step-00000099.attempt-2",
        "step-00000001.attempt-2",
        "step-00000099.attempt-1",
    ]
