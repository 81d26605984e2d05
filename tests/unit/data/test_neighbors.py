"""Windows hold rows that follow one another: no gap of a split, of a file's border, or of time is within one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_jobs import job_of
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.data.fit import training_batches
from orchestrator.data.preparations.neighbors import SeriesCut, series_sizes
from orchestrator.data.prepare_data import prepare_job
from orchestrator.errors import DataError
from orchestrator.spec.preparations import Windows

SPLIT = {"kind": "split", "fraction": 0.2}


def rows_of(source: Any) -> np.ndarray:
    """Each window's past and future of the first series, one after the other."""
    batches = list(training_batches([source], 0))
    whole = [np.concatenate([one["past"], one["future"]], axis=1)[..., 0] for one in batches]
    return np.concatenate(whole).round().astype(int)


def prepared(path: Path, kind: str = "csv", evaluation: Any = SPLIT, **prepare: Any) -> Any:
    section = {"kind": "windows", "past": 4, "horizon": 2, "normalize": False, "columns": ["v"], **prepare}
    data = {"train": {"kind": kind, "path": str(path)}, "prepare": section, "eval": evaluation}
    job = job_of(data, family="lstm", batch=2, objective={"kind": "forecasting"})
    return prepare_job(job, "/", str(path.parent / ".cache"))


def csv(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_default_split_keeps_neighbors_and_leaves_the_horizon_out(tmp_path: Path) -> None:
    made = prepared(csv(tmp_path / "h.csv", v=range(60)))
    train, held = rows_of(made.train[0]), rows_of(made.evaluation)
    assert (np.diff(train, axis=1) == 1).all() and (np.diff(held, axis=1) == 1).all()
    assert (train.min(), train.max()) == (0, 45) and len(train) == 46 - 5
    assert (held.min(), held.max()) == (48, 59) and len(held) == 12 - 5


@pytest.mark.parametrize(
    "prepare",
    [
        {"kind": "windows", "past": 4, "horizon": 2},
        {"kind": "pack", "context": 8, "tokenizer": {"kind": "bytes"}, "separator": False},
    ],
)
def test_another_split_is_refused(prepare: dict[str, Any]) -> None:
    data = {"train": {"kind": "csv", "path": "x"}, "prepare": prepare}
    with pytest.raises(ValidationError, match="hash takes rows out of the middle"):
        job_of({**data, "eval": {**SPLIT, "by": "hash"}}, family="lstm")
    spec = job_of({**data, "eval": SPLIT}, family="lstm").data
    assert spec.held_out_by(spec.eval) == "position"


def test_packed_text_without_separators_is_split_by_position(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{n:07d}\n" for n in range(100)))
    data = {"train": {"kind": "text", "path": str(tmp_path / "a.txt")}, "eval": SPLIT}
    section = {"kind": "pack", "context": 8, "tokenizer": {"kind": "bytes"}}
    for separator, by in ((False, "position"), (True, "hash")):
        job = job_of({**data, "prepare": {**section, "separator": separator}}, family="gpt")
        assert job.data.held_out_by(job.data.eval) == by
    job = job_of({**data, "prepare": {**section, "separator": False}}, family="gpt", batch=2)
    made = prepare_job(job, "/", str(tmp_path / ".cache"))
    (batch,) = training_batches(made.train, 0)
    assert bytes(batch["tokens"][:, :8].astype(np.uint8).ravel()) == b"".join(
        b"%07d\n" % n for n in range(79)
    )


def test_no_window_runs_over_a_files_border_unless_the_files_are_joined_in_their_order(
    tmp_path: Path,
) -> None:
    for n in range(12):
        csv(tmp_path / "h" / f"part-{n}.csv", v=range(n * 10, n * 10 + 10))
    apart = prepared(tmp_path / "h", evaluation=None)
    windows = rows_of(apart.train[0])
    assert (windows // 10 == windows[:, :1] // 10).all() and len(windows) == 12 * 5
    assert any("each of 12 files is a series of its own" in note for note in apart.notes)
    joined = prepared(tmp_path / "h", evaluation=None, files="joined")
    windows = rows_of(joined.train[0])
    assert (np.diff(windows, axis=1) == 1).all() and len(windows) == 115 and joined.notes == ()


@pytest.mark.parametrize("interleaved", [True, False])
def test_many_series_in_one_file_are_each_split_at_their_own_end(tmp_path: Path, interleaved: bool) -> None:
    shop = np.tile(np.arange(3), 40) if interleaved else np.repeat(np.arange(3), 40)
    day = np.repeat(np.arange(40), 3) if interleaved else np.tile(np.arange(40), 3)
    made = prepared(csv(tmp_path / "h.csv", v=shop * 1000 + day, shop=[f"s{n}" for n in shop]), group="shop")
    train, held = rows_of(made.train[0]), rows_of(made.evaluation)
    assert (np.diff(train, axis=1) == 1).all() and (np.diff(held, axis=1) == 1).all()
    for number in range(3):
        mine = train[train[:, 0] // 1000 == number] % 1000
        assert (mine.min(), mine.max(), len(mine)) == (0, 29, 25)
        theirs = held[held[:, 0] // 1000 == number] % 1000
        assert (theirs.min(), theirs.max(), len(theirs)) == (32, 39, 3)


@given(groups=st.lists(st.sampled_from("abc"), min_size=2, max_size=60), parts=st.integers(1, 7))
def test_a_cut_takes_each_series_end(groups: list[str], parts: int) -> None:
    section = Windows(past=1, horizon=2, group="g")
    whole = pa.table({"g": groups, "n": range(len(groups))})
    tables = [whole.slice(at, parts) for at in range(0, len(groups), parts)]
    cut = {
        part: SeriesCut(section, series_sizes(section, tables), 0.3, part).kept(tables)
        for part in (False, True)
    }
    kept = {part: [n for table in some for n in table["n"].to_pylist()] for part, some in cut.items()}
    for name in set(groups):
        mine = [n for n, group in enumerate(groups) if group == name]
        held = min(len(mine) - 1, max(1, round(len(mine) * 0.3))) if len(mine) > 1 else 0
        assert [n for n in kept[True] if groups[n] == name] == mine[len(mine) - held :]
        train = mine[: max(0, len(mine) - held - 2)] if held else mine
        assert [n for n in kept[False] if groups[n] == name] == train


def days(*numbers: int) -> list[str]:
    return [str(np.datetime64("2026-01-01") + n) for n in numbers]


def test_rows_that_go_back_or_stand_still_in_time_are_an_error(tmp_path: Path) -> None:
    for name, when in (("back", [*range(9), 3]), ("still", [*range(9), 8])):
        path = csv(tmp_path / f"{name}.csv", day=days(*when), v=range(10))
        with pytest.raises(
            DataError, match=rf"{name}\.csv, row 9: column 'day' goes from 2026-01-09 .* sort the rows"
        ):
            prepared(path, evaluation=None)


def test_jumps_in_time_are_said_cut_or_ignored(tmp_path: Path) -> None:
    path = csv(tmp_path / "h.csv", day=days(*range(10), *range(14, 24)), v=[*range(10), *range(14, 24)])
    words = (
        r"h\.csv, row 10: column 'day' jumps from 2026-01-10 00:00:00 to 2026-01-15 00:00:00.*jumps to cut"
    )
    with pytest.raises(DataError, match=words):
        prepared(path, evaluation=None)
    cut = prepared(path, evaluation=None, jumps="cut")
    assert (np.diff(rows_of(cut.train[0]), axis=1) == 1).all() and cut.train_samples == 10
    assert cut.notes == ("windows: column 'day' says the time of a row",)
    assert prepared(path, evaluation=None, jumps="ignore").train_samples == 15


def test_time_is_held_within_each_series_and_in_any_unit(tmp_path: Path) -> None:
    shop, day = np.repeat(["a", "b"], 10), np.tile(np.arange(10), 2)
    path = csv(tmp_path / "h.csv", t=day * 3600 + 1_700_000_000, v=day, shop=shop)
    assert prepared(path, evaluation=None, group="shop", time="t").train_samples == 10
    with pytest.raises(DataError, match=r"row 10: column 't' goes from 1700032400 to 1700000000; sort"):
        prepared(path, evaluation=None, time="t")
    months = np.arange("2024-01", "2026-01", dtype="datetime64[M]").astype("datetime64[D]")
    pq.write_table(pa.table({"when": months, "v": range(24)}), tmp_path / "m.parquet")
    assert prepared(tmp_path / "m.parquet", "parquet", None).train_samples == 19
    pq.write_table(pa.table({"when": ["x"] * 24, "v": range(24)}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"data.prepare.time: column 'when' is string, and not dates"):
        prepared(tmp_path / "x.parquet", "parquet", None, time="when")
    with pytest.raises(DataError, match="has no column 'y'"):
        prepared(tmp_path / "x.parquet", "parquet", None, time="y")
