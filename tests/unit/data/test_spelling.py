"""Texts as numbers of characters, held against the frames that must hold them."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_jobs import job_of, plan_of

from orchestrator import data
from orchestrator.data.serving import inputs_of
from orchestrator.data.transforms.spelling import frames_needed
from orchestrator.errors import DataError

FRAMES = 6
TEXTS = ["ab", "b a", "", "cab"]


def prepared_of(tmp_path, texts=TEXTS, held_out=None, *, skip=0, **more):
    def source(name, rows):
        signal = [[[float(row + i) for i in range(FRAMES)]] * 2 for row in range(len(rows))]
        pq.write_table(pa.table({"signal": signal, "text": rows}), tmp_path / f"{name}.parquet")
        return {"kind": "parquet", "path": str(tmp_path / f"{name}.parquet")}

    spec = {
        "train": source("train", texts),
        "shuffle": False,
        "skip_bad_samples": skip,
        "transforms": [{"kind": "spell", "length": 6, **more}],
        **({"eval": source("eval", held_out)} if held_out else {}),
    }
    job = job_of(spec, batch=4, family="gru", objective={"kind": "ctc", "space": 1})
    plan = plan_of(job, tmp_path)
    return data.prepare(plan), plan


def first_step(prepared, plan):
    stream = data.open_train(prepared, plan, rank=0, world_size=1, start_step=0)
    try:
        return next(stream).micros[0]
    finally:
        stream.close()


def test_characters_are_numbered_by_the_training_texts(tmp_path):
    prepared, plan = prepared_of(tmp_path)
    batch = first_step(prepared, plan)
    assert batch["target"].tolist() == [
        [2, 3, 0, 0, 0, 0],
        [3, 1, 2, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [4, 2, 3, 0, 0, 0],
    ]
    assert batch["target_length"].tolist() == [2, 3, 0, 3]
    assert "text" not in batch
    assert {"outputs": 5, "space": 1, "channels": 2, "signal_length": 6}.items() <= prepared.dims.items()
    assert prepared.classes == ("<blank>", " ", "a", "b", "c")
    assert data.decode_text(prepared, [4, 2, 3]) == "cab"
    assert {layout.name for layout in inputs_of(plan.job, prepared).layouts} == {"signal"}


def test_a_frame_more_stands_between_two_alike():
    assert [frames_needed(text) for text in ("", "a", "ab", "aab", "aaa")] == [0, 1, 2, 4, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aabbab", r"train\.parquet, row 1: column 'text' has 6 characters, which need 8 frames, but the sound has 6"),
        ("abababa", r"train\.parquet, row 1: column 'text' has 7 characters, more than the 6 of spell"),
    ],
)  # fmt: skip
def test_texts_that_do_not_fit_are_refused_with_file_and_row(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as raised:
        first_step(*prepared_of(tmp_path, ["a", text, "b", "a b"]))
    assert "\n" not in str(raised.value)


def test_texts_that_their_frames_can_t_hold_are_left_out_where_the_job_says_so(tmp_path):
    texts = ["a", "aabbab", "b", "a b"]
    batch = first_step(*prepared_of(tmp_path, texts, skip=1, unfit="skip"))
    assert batch["weight"].tolist() == [1, 0, 1, 1]
    with pytest.raises(ValueError, match=r"unfit: skip leaves texts out .* say how many may be"):
        first_step(*prepared_of(tmp_path, texts, unfit="skip"))


def test_a_character_of_no_training_text_is_refused(tmp_path):
    prepared, plan = prepared_of(tmp_path, held_out=["ab", "abx"])
    with pytest.raises(DataError, match=r"eval\.parquet, row 1: .*'x', which no training text has"):
        next(data.open_eval(prepared, plan, rank=0, world_size=1).batches())


def test_a_character_of_no_training_text_is_left_out_where_the_job_says_so(tmp_path):
    held_out = ["ab", "abx", "b"]
    prepared, plan = prepared_of(tmp_path, held_out=held_out, skip=1, unfit="skip")
    batch = next(data.open_eval(prepared, plan, rank=0, world_size=1).batches())
    assert batch["weight"].tolist()[:3] == [1, 0, 1] and batch["target_length"].tolist()[:3] == [2, 0, 1]
    prepared, plan = prepared_of(tmp_path, held_out=[*held_out, "y"], skip=1, unfit="skip")
    with pytest.raises(DataError, match=r"more than data\.skip_bad_samples"):
        next(data.open_eval(prepared, plan, rank=0, world_size=1).batches())
