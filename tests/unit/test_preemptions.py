"""What the benchmark of preemptions counts, on runs that are made up."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("preemptions")


def run(bench: Any, design: Any, starts: list[int], executed: list[int], *, keeps_place: bool) -> Any:
    """Attempts of which each takes so many steps, of two ranks that share every batch; a tenth of a second a step."""
    half, attempts = bench.BATCH // 2, []
    for start, count in zip(starts, executed, strict=True):
        first = start if keeps_place else start - start % design.steps_of_epoch
        batches = [(first + step) % design.steps_of_epoch for step in range(count)]
        ranks = [
            [
                bench.Forward(at / 10, range((2 * batch + rank) * half, (2 * batch + rank + 1) * half))
                for at, batch in enumerate(batches)
            ]
            for rank in range(2)
        ]
        attempts.append(bench.Attempt(start, ranks))
    return bench.result_of(attempts, design, wall_seconds=20.0)


def test_steps_beyond_the_next_start_are_those_taken_again(bench: Any) -> None:
    design = bench.Design(steps=100)
    result = run(bench, design, [0, 25, 25, 75, 90], [40, 0 + 30, 50, 20, 10], keeps_place=True)
    assert result.again == (15, 30, 0, 5)
    assert result.step_seconds == pytest.approx(0.1)
    assert result.wasted(2) == pytest.approx(50 * 0.1 * 2)
    assert result.effective(100) == pytest.approx(0.5)
    assert (result.doubled, result.missed) == (0, 0), "what was thrown away is in no model"


def test_a_loop_that_begins_its_epoch_anew_doubles_what_it_had_and_misses_what_it_has_no_steps_for(
    bench: Any,
) -> None:
    design = bench.Design(steps=100)  # epochs of 20 steps
    result = run(bench, design, [0, 25, 40, 60, 80], [25, 15, 20, 20, 20], keeps_place=False)
    assert result.again == (0, 0, 0, 0)
    # from 25 on the 15 steps up to 40 are the first 15 of epoch 1, of which 5 were taken: its last 5 never are
    assert (result.doubled, result.missed) == (5 * bench.BATCH, 5 * bench.BATCH)


@pytest.mark.parametrize(
    ("starts", "executed"),
    [
        ([0, 25, 50, 75], [25, 25, 25, 25]),  # a preemption that did not happen
        ([0, 25, 50, 75, 90], [25, 25, 25, 15, 9]),  # not to its end
        ([0, 25, 50, 75, 90], [24, 25, 25, 15, 10]),  # a step that nobody took
    ],
)
def test_a_run_that_is_not_whole_is_no_result(bench: Any, starts: list[int], executed: list[int]) -> None:
    with pytest.raises(SystemExit, match="a run of attempts from"):
        run(bench, bench.Design(steps=100), starts, executed, keeps_place=True)


def test_attempts_are_told_apart_by_their_files(bench: Any, tmp_path: Path) -> None:
    for name, lines in {
        "0-10.5-aa": [[10.5, [0]], [11.0, [2]]],
        "1-10.4-bb": [[10.4, [1]], [11.0, [3]]],
        "1-20.0-aa": [[20.0, [5]]],
        "0-20.1-bb": [[20.1, [4]]],
    }.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    first, second = bench.attempts_in(tmp_path, [0, 1], 2)
    assert first.start_step == 0 and [[each.rows for each in rank] for rank in first.forwards] == [
        [[0], [2]],
        [[1], [3]],
    ]
    assert second.start_step == 1 and [rank[0].rows for rank in second.forwards] == [[4], [5]]
    with pytest.raises(SystemExit, match="groups began from"):
        bench.attempts_in(tmp_path, [0], 2)


def test_the_schedule_follows_from_the_seed_and_has_a_notice_in_each_interval(bench: Any) -> None:
    for seed in range(50):
        notices = bench.Design(seed=seed).notices()
        assert notices == bench.Design(seed=seed).notices()
        assert [notice.step // 400 for notice in notices] == [0, 1, 2, 3]
        assert notices[-1].step + 30 < 1600, "the last is over before the run"
        assert {notice.node for notice in notices} <= {0, 1}
