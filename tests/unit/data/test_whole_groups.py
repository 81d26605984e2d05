"""A split that keeps the rows of a group on one side."""

import numpy as np
import pandas as pd
import pytest
from data_jobs import job_of, plan_of

from orchestrator import data
from orchestrator.data.inspect_data import inspect
from orchestrator.data.preparations.whole_groups import nearest_groups
from orchestrator.data.prepare_data import prepare_job
from orchestrator.errors import DataError, SpecError

ROWS = 400


@pytest.fixture
def speakers(tmp_path):
    """Rows of 23 speakers of whom some say a lot, interleaved, in two files."""
    speaker = np.minimum(np.random.default_rng(0).zipf(1.4, ROWS), 23)
    frame = pd.DataFrame({"a": np.arange(ROWS), "label": np.arange(ROWS) % 3, "speaker": speaker})
    frame["speaker"] = "s" + frame["speaker"].astype(str)
    (tmp_path / "rows").mkdir()
    frame[:250].to_parquet(tmp_path / "rows" / "0.parquet", row_group_size=40)
    frame[250:].to_parquet(tmp_path / "rows" / "1.parquet", row_group_size=40)
    return frame["speaker"].to_numpy()


def spec(**split):
    return {
        "train": {"kind": "parquet", "path": "rows"},
        "columns": {"features": ["a"]},
        "eval": {"kind": "split", "fraction": 0.2, "group": "speaker", **split},
    }


@pytest.mark.parametrize("workers", [1, 3])
def test_each_row_is_on_one_side_with_all_of_its_group_for_any_number_of_workers(speakers, tmp_path, workers):
    plan = plan_of(job_of(spec(), batch=24), tmp_path, workers=workers, steps=40, micro=8)
    prepared = data.Prepared.model_validate_json(data.prepare(plan).model_dump_json())
    trained, held = set(), set()
    for rank in range(workers):
        stream = data.open_train(prepared, plan, rank=rank, world_size=workers, start_step=0)
        for _ in range(prepared.steps_per_epoch):
            trained |= {i for micro in next(stream).micros for i in micro["sample_id"].tolist() if i >= 0}
        stream.close()
        evaluation = data.open_eval(prepared, plan, rank=rank, world_size=workers)
        for batch in evaluation.batches():
            weight = batch.get("weight", np.ones(8))
            held |= set(batch["sample_id"][weight > 0].tolist())
    assert trained | held == set(range(ROWS)) and not trained & held
    assert not {speakers[i] for i in trained} & {speakers[i] for i in held}
    assert (len(trained), len(held)) == (prepared.train_samples, prepared.eval_samples)
    assert abs(len(held) - ROWS * 0.2) <= 1


def test_the_plan_says_how_many_of_what_and_the_seed_decides_which(speakers, tmp_path):
    def digest(seed, cache):
        job = job_of(spec(), seed=seed)
        prepared = prepare_job(job, str(tmp_path), str(tmp_path / cache))
        return prepared.identity["fingerprint"], prepared.lineage["eval"]["digest"]

    assert digest(1, "here") == digest(1, "elsewhere"), "the cache's place says nothing of the rows"
    assert digest(1, "here") != digest(2, "here")
    facts = inspect(job_of(spec()), str(tmp_path), str(tmp_path / "cache"))
    (note,) = [note for note in facts.notes if "groups" in note]
    assert (
        f"of {len(set(speakers))} groups of 'speaker' are held out, {facts.eval_samples} of {ROWS} rows"
        in note
    )


def test_as_many_rows_as_whole_groups_allow():
    generator = np.random.default_rng(1)
    for seed in range(200):
        sizes = generator.integers(1, 40, generator.integers(2, 8)).tolist()
        rows = {str(number): size for number, size in enumerate(sizes)}
        wanted = int(generator.integers(1, sum(sizes)))
        held = nearest_groups(rows, wanted, seed)
        assert 0 < len(held) < len(rows) and held == nearest_groups(rows, wanted, seed)
        missing = wanted - sum(rows[name] for name in held)
        for (
            name,
            size,
        ) in rows.items():  # none that changed sides would come nearer, but for the last of its side
            side = sum((other in held) == (name in held) for other in rows)
            assert side == 1 or abs(missing - (-size if name in held else size)) >= abs(missing), (rows, held)
    assert nearest_groups({"a": 5, "b": 1}, 5, 0) == nearest_groups({"a": 5, "b": 1}, 5, 3) == ["a"]
    drawn = {tuple(nearest_groups(dict.fromkeys("abcdef", 3), 6, seed)) for seed in range(40)}
    assert len(drawn) > 10, "which groups is drawn anew for each seed"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"group": "voice"}, r"rows has no column 'voice'; it has a, label, speaker$"),
        ({"group": "one"}, r"all rows of .*rows have one value in 'one'; split by another column$"),
        ({"group": "gap"}, r"0\.parquet, row 7: column 'gap' has no value there, so it is of no group$"),
        (
            {"group": "size"},
            r"column 'size' of .*rows is double; groups are told apart by text, whole numbers",
        ),
    ],
)
def test_what_tells_no_groups_apart_is_a_sentence(speakers, tmp_path, change, told):
    if change["group"] != "voice":
        for path in (tmp_path / "rows").iterdir():
            frame = pd.read_parquet(path)
            frame["one"], frame["size"], frame["gap"] = "x", 0.5, "y"
            frame["gap"] = frame["gap"].where(frame["a"] % 250 != 7)
            frame.to_parquet(path)
    with pytest.raises(DataError, match=told):
        prepare_job(job_of(spec(**change)), str(tmp_path), str(tmp_path / "cache"))


WINDOWS = {
    "kind": "windows",
    "files": "joined",
    "columns": ["a"],
    "past": 4,
    "horizon": 2,
    "group": "speaker",
}


@pytest.mark.parametrize(
    ("split", "more", "told"),
    [
        ({"by": "group", "group": None}, {}, "by: group needs group, the column whose equal values"),
        ({"by": "hash"}, {}, "by: hash takes rows apart that group keeps together"),
        (
            {},
            {"prepare": {**WINDOWS, "group": None}},
            "'speaker' takes rows out of the middle, but prepare: windows",
        ),
    ],
)
def test_what_can_not_be_kept_together_is_refused(split, more, told):
    with pytest.raises((SpecError, ValueError), match=told):
        job_of({**spec(**split), **more})


def test_windows_of_whole_series_are_held_out(speakers, tmp_path):
    job = job_of(
        {**{k: v for k, v in spec().items() if k != "columns"}, "prepare": WINDOWS},
        model={"family": "gru", "size": "debug"},
        objective={"kind": "forecasting"},
    )
    prepared = prepare_job(job, str(tmp_path), str(tmp_path / "cache"))
    counts = pd.Series(speakers).value_counts()
    assert prepared.train_samples + prepared.eval_samples == np.maximum(counts - 5, 0).sum()
