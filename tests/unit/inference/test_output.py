"""The folder of predictions: whoever goes on in it writes the same, and nobody writes into anything else."""

import pyarrow.parquet as pq
import pytest
from asked import stones

from orchestrator.errors import SpecError
from orchestrator.inference.output import COMPLETE, MADE_OF, Output, part_name


@pytest.fixture
def task(classifier, tmp_path):
    pq.write_table(stones(30), tmp_path / "new.parquet", row_group_size=10)
    return classifier.task(tmp_path / "new.parquet", tmp_path / "out")


def test_parts_that_are_there_are_kept_until_all_are(task, tmp_path):
    assert Output(task).begin() == []
    (tmp_path / "out" / part_name(1)).write_bytes(b"a part")
    (tmp_path / "out" / part_name(7)).write_bytes(b"no part of these")
    assert Output(task).begin() == [1]
    assert not (tmp_path / "out" / COMPLETE).exists()
    Output(task).complete()
    assert (tmp_path / "out" / COMPLETE).exists()


def test_the_same_data_elsewhere_is_the_same_data(classifier, task, tmp_path):
    Output(task).begin()
    (tmp_path / "moved").mkdir()
    (tmp_path / "new.parquet").rename(tmp_path / "moved" / "other.parquet")
    moved = classifier.task(tmp_path / "moved" / "other.parquet", tmp_path / "out")
    assert Output(moved).begin() == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"step": 20}, "step was 40, and now it is 20"),
        ({"run_id": "another"}, "run was asked-"),
        ({"kept": ("id",)}, "kept was"),
        ({"seed": 3}, "seed was 0, and now it is 3"),
        ({"temperature": 0.5}, "temperature was 1.0, and now it is 0.5"),
        ({"device": "cuda"}, "device was cpu, and now it is cuda"),
    ],
)
def test_other_predictions_are_refused(task, changed, said):
    Output(task).begin()
    with pytest.raises(SpecError, match=f"{said}.*; give another folder, or delete this one"):
        Output(task.model_copy(update=changed)).begin()


def test_predictions_for_other_rows_are_refused(classifier, task, tmp_path):
    Output(task).begin()
    pq.write_table(stones(30, seed=9), tmp_path / "new.parquet", row_group_size=10)
    changed = classifier.task(tmp_path / "new.parquet", tmp_path / "out")
    with pytest.raises(
        SpecError, match=r"data was .*new\.parquet, and now it is data that holds something else"
    ):
        Output(changed).begin()


def test_a_folder_of_something_else_is_refused(task, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    with pytest.raises(SpecError, match=r"out holds something else \(thesis.tex\); give a new or an empty"):
        Output(task).begin()
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_a_file_in_its_place_is_refused(task, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(SpecError, match="can't be a folder: a file is in its place"):
        Output(task).begin()


def test_what_another_program_wrote_is_refused(task, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MADE_OF).write_text('{"made": "by hand"}')
    with pytest.raises(SpecError, match="was not written by this version of trainwright"):
        Output(task).begin()
