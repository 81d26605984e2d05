"""What the loop gets: each sample once, the same batches for any workers, from any step, with nothing read in vain."""

import itertools
import random
import threading
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from data_jobs import job_of, plan_of

from orchestrator import data
from orchestrator.data import Prepared
from orchestrator.data.order import OrderShape
from orchestrator.data.sources.formats.parquet import ParquetFormat
from orchestrator.errors import DataError
from orchestrator.strategies.copies import for_kernels

ROWS = 1000


@pytest.fixture
def table(tmp_path):
    """Rows whose features say which they are, in files of 300, 300 and 400."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for number, (start, stop) in enumerate(((0, 300), (300, 600), (600, ROWS))):
        ids = np.arange(start, stop)
        made = pa.table({"a": ids.astype(np.float32), "b": -ids.astype(np.float32), "label": ids % 3})
        pq.write_table(made, folder / f"{number}.parquet", row_group_size=50)
    return {"train": {"kind": "parquet", "path": str(folder)}, "columns": {"features": "*"}}


@pytest.fixture
def many_lanes(monkeypatch):
    """Make the order treat this small data set as a large one."""

    def shape(group_rows, *, row_bytes, batch, window_rows, shuffle, drop_tail):
        lanes = max(n for n in range(1, 9) if batch % n == 0)
        return OrderShape(int(group_rows.sum()), batch, lanes, 3 * (batch // lanes), True, drop_tail)

    monkeypatch.setattr("orchestrator.data.prepare_data.shape_order", shape)


def prepared_of(plan) -> Prepared:
    """As the workers get it."""
    return Prepared.model_validate_json(data.prepare(plan).model_dump_json())


def global_steps(prepared, plan, start: int, stop: int) -> list[dict[str, np.ndarray]]:
    """Whole global batches of steps [start, stop)."""
    ranks = [
        data.open_train(prepared, plan, rank=rank, world_size=plan.world_size, start_step=start)
        for rank in range(plan.world_size)
    ]
    steps = []
    for _ in range(start, stop):
        micros = [micro for stream in ranks for micro in next(stream).micros]
        steps.append({name: np.concatenate([micro[name] for micro in micros]) for name in micros[0]})
    for stream in ranks:
        stream.close()
    return steps


def test_arrays_are_as_promised(table, tmp_path):
    plan = plan_of(job_of(table, batch=12), tmp_path, workers=2, micro=3)
    prepared = prepared_of(plan)
    assert prepared.dims["features"] == 2 and prepared.dims["outputs"] == 3
    step = next(data.open_train(prepared, plan, rank=0, world_size=2, start_step=0))
    assert len(step.micros) == 2 and step.samples == 12 and not step.padded
    micro = step.micros[0]
    assert {name: (str(values.dtype), values.shape) for name, values in micro.items()} == {
        "features": ("float32", (3, 2)),
        "label": ("int64", (3,)),
        "sample_id": ("int64", (3,)),
        "sample_seed": ("int64", (3,)),
    }
    np.testing.assert_array_equal(micro["features"][:, 0], micro["sample_id"])
    np.testing.assert_array_equal(micro["features"][:, 1], -micro["sample_id"])
    np.testing.assert_array_equal(micro["label"], micro["sample_id"] % 3)


@pytest.mark.parametrize("lanes", [False, True])
def test_hundred_schedules_of_kills_and_changes_of_workers_lose_nothing(table, tmp_path, request, lanes):
    """Three epochs; killed at random steps, resumed on 4, 3, 2, 4 ... workers: each id once an epoch, same batches."""
    if lanes:
        request.getfixturevalue("many_lanes")
    batch, epochs = 24, 3
    job = job_of(table, batch=batch)
    prepared = prepared_of(plan_of(job, tmp_path))
    total = prepared.steps_per_epoch * epochs
    whole = global_steps(prepared, plan_of(job, tmp_path, workers=1, steps=total), 0, total)
    schedule = random.Random(5)
    for _ in range(50):
        kills = sorted(schedule.sample(range(1, total), schedule.randint(1, 4)))
        taken = []
        for turn, (start, stop) in enumerate(zip([0, *kills], [*kills, total], strict=True)):
            plan = plan_of(job, tmp_path, workers=(4, 3, 2, 4)[turn % 4], steps=total)
            taken += global_steps(prepared, plan, start, stop)
        for epoch in range(epochs):
            steps = taken[epoch * prepared.steps_per_epoch : (epoch + 1) * prepared.steps_per_epoch]
            seen = Counter(np.concatenate([step["sample_id"] for step in steps]).tolist())
            del seen[-1]
            assert seen == Counter(range(ROWS))
        for ours, theirs in zip(taken, whole, strict=True):
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """The row groups that were read, in turn."""
    groups: list[int] = []
    original = ParquetFormat.read

    def counted(self, index, group, columns):
        groups.append(group)
        return original(self, index, group, columns)

    monkeypatch.setattr(ParquetFormat, "read", counted)
    return groups


def test_reading_begins_at_the_step(table, tmp_path, many_lanes, read):
    """What lies before is skipped by row group, not read and thrown away."""
    job = job_of(table, batch=24)
    prepared = prepared_of(plan_of(job, tmp_path))
    read.clear()
    last = prepared.steps_per_epoch - 1
    plan = plan_of(job, tmp_path, steps=last + 1)
    global_steps(prepared, plan, last, last + 1)
    assert len(read) <= 2 * prepared.train[0].order.lanes
    # And a whole epoch reads each row group about once: twice only where a lane ends within it.
    read.clear()
    global_steps(prepared, plan, 0, last + 1)
    groups = len(prepared.train[0].index.group_rows)
    assert len(read) <= groups + prepared.train[0].order.lanes


def test_the_last_batch_is_padded_with_weight_zero(table, tmp_path):
    plan = plan_of(job_of(table, batch=24), tmp_path, workers=3, steps=100)
    prepared = prepared_of(plan)
    last = prepared.steps_per_epoch - 1
    streams = [data.open_train(prepared, plan, rank=r, world_size=3, start_step=last) for r in range(3)]
    steps = [next(stream) for stream in streams]
    assert {step.samples for step in steps} == {ROWS % 24} and all(step.padded for step in steps)
    weights = np.concatenate([step.micros[0]["weight"] for step in steps])
    ids = np.concatenate([step.micros[0]["sample_id"] for step in steps])
    assert weights.dtype == np.float32 and weights.sum() == ROWS % 24
    assert ((ids == -1) == (weights == 0)).all()
    assert steps[0].epoch == pytest.approx(1.0)
    following = [next(stream) for stream in streams]
    assert all("weight" not in step.micros[0] and not step.padded for step in following)


def test_the_tail_can_be_dropped(table, tmp_path):
    plan = plan_of(job_of({**table, "tail": "drop"}, batch=24), tmp_path, steps=ROWS // 24)
    prepared = prepared_of(plan)
    assert prepared.steps_per_epoch == ROWS // 24
    ids = np.concatenate([step["sample_id"] for step in global_steps(prepared, plan, 0, ROWS // 24)])
    assert len(set(ids.tolist())) == len(ids) == ROWS // 24 * 24 and (ids >= 0).all()


@pytest.mark.parametrize("by", ["hash", "position"])
@pytest.mark.parametrize("workers", [1, 3])
def test_held_out_rows_are_evaluated_once_and_never_trained_on(table, tmp_path, by, workers):
    spec = {**table, "eval": {"kind": "split", "fraction": 0.123, "by": by}}
    plan = plan_of(job_of(spec, batch=24), tmp_path, workers=workers, steps=60, micro=8)
    prepared = prepared_of(plan)
    assert prepared.eval_samples == 123 and prepared.train_samples == 877
    trained = {
        int(i)
        for step in global_steps(prepared, plan, 0, prepared.steps_per_epoch)
        for i in step["sample_id"]
    }
    ranks = [
        list(data.open_eval(prepared, plan, rank=r, world_size=workers).batches()) for r in range(workers)
    ]
    # A forward may be collective: each rank has as many batches of one size.
    assert len({len(batches) for batches in ranks}) == 1
    assert all(len(batch["sample_id"]) == 8 for batches in ranks for batch in batches)
    evaluated = [
        int(i)
        for batches in ranks
        for batch in batches
        for i, weight in zip(batch["sample_id"], batch.get("weight", np.ones(8)), strict=True)
        if weight
    ]
    assert len(evaluated) == len(set(evaluated)) == 123
    assert set(evaluated) | (trained - {-1}) == set(range(ROWS)) and not set(evaluated) & trained
    if by == "position":
        assert sorted(evaluated) == list(range(877, ROWS))


def test_a_second_evaluation_is_the_same_and_reads_nothing(table, tmp_path, monkeypatch):
    plan = plan_of(job_of({**table, "eval": {"kind": "split"}}, batch=8), tmp_path)
    evaluation = data.open_eval(prepared_of(plan), plan, rank=0, world_size=1)
    first = list(evaluation.batches())
    monkeypatch.setattr(ParquetFormat, "read", None)
    for one, other in zip(first, evaluation.batches(), strict=True):
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_normalize_is_fitted_on_training_rows_only(table, tmp_path):
    spec = {
        **table,
        "eval": {"kind": "split", "fraction": 0.5, "by": "position"},
        "transforms": [{"kind": "normalize", "tensor": "features"}],
    }
    plan = plan_of(job_of(spec, batch=8), tmp_path)
    prepared = prepared_of(plan)
    np.testing.assert_allclose(prepared.fitted[0]["mean"], [249.5, -249.5])
    np.testing.assert_allclose(prepared.fitted[0]["deviation"], np.arange(500).std())
    steps = global_steps(prepared, plan_of(plan.job, tmp_path, steps=70), 0, prepared.steps_per_epoch)
    features = np.concatenate([s["features"][s["sample_id"] >= 0] for s in steps])
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-5)


def test_sources_are_mixed_by_weight_in_every_batch(table, tmp_path):
    other = tmp_path / "other.parquet"
    ids = np.arange(200)
    pq.write_table(
        pa.table({"a": ids.astype(np.float32) + 5000, "b": ids.astype(np.float32), "label": ids % 3}), other
    )
    spec = {**table, "train": [{**table["train"], "weight": 3}, {"kind": "parquet", "path": str(other)}]}
    job = job_of(spec, batch=20)
    prepared = prepared_of(plan_of(job, tmp_path))
    assert [source.order.batch for source in prepared.train] == [15, 5]
    whole = global_steps(prepared, plan_of(job, tmp_path, steps=80), 0, 80)
    for step in whole:
        assert (step["features"][:, 0] >= 5000).sum() == 5
    # The small source: each row once in 40 steps, twice in 80; ids are those of the row, whatever the source.
    small = Counter(int(i) for step in whole for i in step["sample_id"] if i >= ROWS)
    assert small == Counter({ROWS + i: 2 for i in range(200)})
    # Killed at step 33 and resumed on four workers, the batches are the same.
    resumed = global_steps(prepared, plan_of(job, tmp_path, workers=4, steps=80), 33, 80)
    for one, other_step in zip(whole[33:], resumed, strict=True):
        np.testing.assert_array_equal(one["sample_id"], other_step["sample_id"])
        np.testing.assert_array_equal(one["sample_seed"], other_step["sample_seed"])


def test_a_source_too_light_for_the_batch_is_refused(table, tmp_path):
    spec = {**table, "train": [{**table["train"], "weight": 100}, table["train"]]}
    with pytest.raises(DataError, match=r"source 2 of 2 has a share of 0.99%.*global batch of 8"):
        data.prepare(plan_of(job_of(spec), tmp_path))


def test_sample_seeds_differ_by_epoch_and_job_seed_but_not_by_place(table, tmp_path):
    plan = plan_of(job_of(table, batch=8), tmp_path, steps=250)
    prepared = prepared_of(plan)
    seeds: list[dict[int, int]] = []
    for start in (0, 125):
        steps = global_steps(prepared, plan, start, start + 125)
        seeds.append(
            {
                int(i): int(s)
                for step in steps
                for i, s in zip(step["sample_id"], step["sample_seed"], strict=True)
            }
        )
    assert len(set(seeds[0].values())) == ROWS
    assert all(seeds[0][i] != seeds[1][i] for i in range(ROWS))


def test_what_changed_is_said(table, tmp_path):
    job = job_of(table)
    before = prepared_of(plan_of(job, tmp_path)).identity
    assert data.describe_change(before, prepared_of(plan_of(job, tmp_path, workers=4)).identity) is None

    def after(**changed) -> str:
        new = data.describe_change(
            before, data.prepare(plan_of(job_of({**table, **changed}), tmp_path)).identity
        )
        assert new is not None
        return new

    assert "other rows are held out" in after(eval={"kind": "split"})
    assert "the order of samples changed" in after(shuffle=False)
    folder = tmp_path / "rows"
    extra = pa.table({"a": [1.0], "b": [1.0], "label": [1]}, schema=pq.read_schema(folder / "0.parquet"))
    pq.write_table(extra, folder / "3.parquet")
    assert "file 3.parquet is new (rows were 1000, now 1001)" in after()
    (folder / "3.parquet").unlink()
    (folder / "1.parquet").unlink()
    assert "file 1.parquet is gone (rows were 1000, now 700)" in after()


def test_errors_of_the_reading_thread_reach_the_loop(table, tmp_path):
    plan = plan_of(job_of(table, batch=8), tmp_path)
    prepared = prepared_of(plan)
    for path in (tmp_path / "rows").iterdir():
        path.unlink()
    stream = data.open_train(prepared, plan, rank=0, world_size=1, start_step=0)
    with pytest.raises(DataError, match="can't be read"):
        for _ in stream:
            pass
    stream.close()


def test_closing_ends_its_threads(table, tmp_path):
    before = set(threading.enumerate())

    def started() -> set[threading.Thread]:
        """Threads of streams only: a library may start one of its own at any time."""
        return {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("data-")}

    plan = plan_of(job_of(table, batch=8), tmp_path, steps=10_000)
    stream = data.open_train(prepared_of(plan), plan, rank=0, world_size=1, start_step=0)
    next(stream)
    assert {thread.name.split("_")[0] for thread in started()} == {"data-prefetch", "data-decode"}
    stream.close()
    stream.close()
    assert not started()


def test_steps_are_made_and_freed_on_the_reading_thread(table, tmp_path):
    """Work of the loop's thread is time that the loop waits for data."""
    made_on, freed_on = [], []

    class Ready:
        def __init__(self, arrays):
            self.rows = len(arrays["label"])
            made_on.append(threading.current_thread().name)

        def __del__(self):
            freed_on.append(threading.current_thread().name)

    plan = plan_of(job_of(table, batch=8), tmp_path, steps=2000)
    stream = data.open_train(prepared_of(plan), plan, rank=0, world_size=1, start_step=0, ready=Ready)
    assert {step.micros[0].rows for step in itertools.islice(stream, 1500)} == {8}
    freed_while_reading = set(freed_on)
    stream.close()
    assert set(made_on) == freed_while_reading == {"data-prefetch"}


def test_what_ready_raises_reaches_the_loop(table, tmp_path):
    def refuse(arrays):
        raise DataError(f"{len(arrays['label'])} are too many")

    plan = plan_of(job_of(table, batch=8), tmp_path)
    stream = data.open_train(prepared_of(plan), plan, rank=0, world_size=1, start_step=0, ready=refuse)
    with pytest.raises(DataError, match="8 are too many"):
        next(stream)
    stream.close()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"features": "c"}, "has no column 'c'; it has a, b, label"),
        ({"features": "*", "label": "a"}, None),
        ({"features": ["a", "b"], "label": "a"}, None),
        (
            {"nothing": "a"},
            "nothing makes features, which mlp with classification takes; say which columns do",
        ),
    ],
)
def test_columns_that_are_not_there_are_named(table, tmp_path, columns, message):
    plan = plan_of(job_of({**table, "columns": columns}), tmp_path)
    if message is None:
        data.prepare(plan)
        return
    with pytest.raises(DataError, match=message):
        data.prepare(plan)


def test_fractions_are_no_labels(table, tmp_path):
    path = tmp_path / "fractions.parquet"
    pq.write_table(pa.table({"x": [1.0, 2.0], "label": [0.5, 1.0]}), path)
    spec = {"train": {"kind": "parquet", "path": str(path)}, "columns": {"features": "x"}}
    with pytest.raises(DataError, match=r"column 'label' of .* has fractions"):
        data.prepare(plan_of(job_of(spec), tmp_path))


def test_memory_does_not_grow_with_the_data(tmp_path, many_lanes):
    """Ten times the rows, less than 1.1 times the peak."""
    import tracemalloc

    peaks = []
    for times in (1, 10):
        path = tmp_path / f"{times}.parquet"
        rows = 20_000 * times
        values = np.random.default_rng(0).normal(size=(rows, 16)).astype(np.float32)
        column = pa.FixedSizeListArray.from_arrays(values.reshape(-1), 16)
        pq.write_table(pa.table({"features": column, "label": np.zeros(rows, int)}), path, row_group_size=500)
        job = job_of({"train": {"kind": "parquet", "path": str(path)}, "prefetch_batches": 0}, batch=32)
        prepared = prepared_of(plan_of(job, tmp_path))
        del values, column
        stream = data.open_train(
            prepared, plan_of(job, tmp_path, steps=600), rank=0, world_size=1, start_step=0
        )
        tracemalloc.start()
        for _ in range(600):
            next(stream)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        stream.close()
    assert peaks[1] < 1.1 * peaks[0] + 100_000


def test_small_types_are_carried_and_finished_alike(tmp_path):
    """Images come out the same whether a transform computes with them, only moves them, or none is there."""
    import io

    from PIL import Image

    encoded = []
    for number in range(20):
        sink = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), number * 10, np.uint8)).save(sink, "PNG")
        encoded.append(sink.getvalue())
    path = tmp_path / "images.parquet"
    small = pa.array(np.arange(20, dtype=np.int16))
    pq.write_table(pa.table({"image": encoded, "label": small}), path)

    def first(transforms: list[dict], gpus: int = 0) -> dict[str, np.ndarray]:
        spec = {"train": {"kind": "images", "path": str(path)}, "transforms": transforms}
        plan = plan_of(job_of(spec, batch=20, family="cnn"), tmp_path)
        scaling = plan.job.scaling.model_copy(update={"gpus_per_worker": gpus})
        plan = plan.model_copy(update={"job": plan.job.model_copy(update={"scaling": scaling})})
        prepared = prepared_of(plan)
        carried.append(prepared.train[0].layouts[0].carried)
        return global_steps(prepared, plan, 0, 1)[0]

    carried: list[str] = []
    plain = first([])
    moved = first([{"kind": "random_flip"}])
    scaled = first([{"kind": "scale", "tensor": "image", "factor": 2}])
    assert carried == ["uint8", "uint8", "float32"]
    for step in (plain, moved, scaled):
        assert step["image"].dtype == np.float32 and step["label"].dtype == np.int64
    np.testing.assert_allclose(plain["image"][:, 0, 0, 0], plain["sample_id"] * 10 / 255, rtol=1e-6)
    np.testing.assert_array_equal(plain["image"], moved["image"])
    np.testing.assert_allclose(plain["image"] * 2, scaled["image"], rtol=1e-6)
    for step, transforms in ((plain, []), (scaled, [{"kind": "scale", "tensor": "image", "factor": 2}])):
        sent = first(transforms, gpus=1)["image"]  # to a GPU as bytes, where they are still bytes
        assert sent.dtype == (np.uint8 if step is plain else np.float32)
        np.testing.assert_array_equal(for_kernels(torch.from_numpy(sent)).numpy(), step["image"])


@pytest.fixture
def partly_bad(tmp_path):
    """Twenty images and numbers; image 3 is damaged, the number of row 7 missing."""
    import io

    from PIL import Image

    encoded = []
    for number in range(20):
        sink = io.BytesIO()
        Image.fromarray(np.full((8, 8), number * 10, np.uint8)).save(sink, "PNG")
        encoded.append(sink.getvalue())
    encoded[3] = encoded[3][:40]
    path = tmp_path / "bad.parquet"
    labels = pa.array([None if i == 7 else i for i in range(20)], pa.int64())
    pq.write_table(pa.table({"image": encoded, "label": labels}), path, row_group_size=6)
    return {"train": {"kind": "images", "path": str(path)}}


def test_a_bad_sample_is_an_error_with_file_and_row(partly_bad, tmp_path):
    plan = plan_of(job_of(partly_bad, batch=20, family="cnn"), tmp_path)
    with pytest.raises(
        DataError, match=r"bad.parquet, row (3: the image can't be decoded|7: column 'label')"
    ):
        global_steps(prepared_of(plan), plan, 0, 1)


def test_bad_samples_are_skipped_up_to_a_number(partly_bad, tmp_path, caplog):
    spec = {**partly_bad, "skip_bad_samples": 2, "transforms": [{"kind": "normalize", "tensor": "image"}]}
    plan = plan_of(job_of(spec, batch=20, family="cnn"), tmp_path, steps=3)
    prepared = prepared_of(plan)
    good = [i for i in range(20) if i not in (3, 7)]
    np.testing.assert_allclose(prepared.fitted[0]["mean"], np.mean([i * 10 / 255 for i in good]), rtol=1e-5)
    stream = data.open_train(prepared, plan, rank=0, world_size=1, start_step=0)
    step = next(stream)
    assert step.padded
    weights = dict(zip(step.micros[0]["sample_id"].tolist(), step.micros[0]["weight"].tolist(), strict=True))
    assert weights == {i: float(i in good) for i in range(20)}
    assert "bad.parquet, row 3" in caplog.text and "bad.parquet, row 7" in caplog.text
    next(stream)
    stream.close()

    few = plan_of(job_of({**spec, "skip_bad_samples": 1}, batch=20, family="cnn"), tmp_path, steps=3)
    with pytest.raises(DataError, match=r"more than data\.skip_bad_samples"):
        next(data.open_train(prepared_of(few), few, rank=0, world_size=1, start_step=0))


@pytest.mark.parametrize("task_bytes", [1, 500, 5_000, 10**7])
def test_read_tasks_cover_the_steps_one_after_the_other(table, tmp_path, many_lanes, monkeypatch, task_bytes):
    from orchestrator.data.reading import training_chunks

    monkeypatch.setattr(training_chunks, "TASK_BYTES", task_bytes)
    plan = plan_of(job_of(table, batch=24), tmp_path, steps=130)
    made = training_chunks.TrainingChunks(prepared_of(plan), plan, rank=0, world_size=1)
    for start in (0, 1, 41, 42, 129):
        bounds = list(made.task_bounds(start))
        assert bounds[0][0] == start and bounds[-1][1] == 130
        assert all(first < stop for first, stop in bounds)
        assert all(one[1] == other[0] for one, other in itertools.pairwise(bounds))


def test_read_tasks_of_one_window_read_it_once_in_a_process(table, tmp_path, many_lanes, read):
    from orchestrator.data.reading import training_chunks

    plan = plan_of(job_of(table, batch=24), tmp_path, steps=100)
    made = training_chunks.TrainingChunks(prepared_of(plan), plan, rank=0, world_size=1)
    read.clear()
    for step in range(3):  # a window of this order is three steps; each task takes one
        made.read(step, step + 1, step + 1)
        made.forget_before(step + 1)
    assert len(read) == len(set(read)) > 0
    made.forget_before(plan.total_steps)
    window = len(read)
    made.read(2, 3, 3)
    assert len(read) > window, "what is let go of is read again"


def test_the_limit_of_bad_samples_holds_over_attempts_and_ranks(partly_bad, tmp_path):
    spec = {**partly_bad, "skip_bad_samples": 2}
    plan = plan_of(job_of(spec, batch=20, family="cnn"), tmp_path, steps=9)
    prepared = prepared_of(plan)
    first = data.open_train(prepared, plan, rank=0, world_size=1, start_step=0)
    next(first)
    assert first.skipped == [3, 7]
    resumed = data.open_train(prepared, plan, rank=0, world_size=1, start_step=1, skipped=first.skipped)
    next(resumed)
    assert resumed.skipped == [3, 7]
    with pytest.raises(DataError, match=r"row 5 can't be read, and more than data\.skip_bad_samples \(2\)"):
        resumed.count_skipped([3, 5])
    elsewhere = data.open_train(prepared, plan, rank=0, world_size=1, start_step=1, skipped=[5])
    with pytest.raises(DataError, match=r"more than data\.skip_bad_samples \(2\)"):
        next(elsewhere)


def test_chunks_are_the_same_for_any_number_of_threads(partly_bad, tmp_path):
    spec = {
        **partly_bad,
        "skip_bad_samples": 2,
        "transforms": [{"kind": "random_crop", "padding": 2}, {"kind": "random_flip"}],
    }
    found = []
    for tasks, ahead in ((2, 0), (1, 4), (2, 4), (5, 4)):
        job = job_of({**spec, "reader_tasks": tasks, "prefetch_batches": ahead}, batch=4, family="cnn")
        plan = plan_of(job, tmp_path, steps=23)
        stream = data.open_train(prepared_of(plan), plan, rank=0, world_size=1, start_step=2)
        found.append([step.micros[0] for step in stream])
    assert len(found[0]) == 21
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            assert one.keys() == same.keys()
            for name, values in one.items():
                np.testing.assert_array_equal(values, same[name])
