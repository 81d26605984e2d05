"""Which source files are that no job describes: by the endings of their names, and as the training data was."""

import pytest

from orchestrator.data.sources.kinds import one_path, source_at
from orchestrator.errors import SpecError
from orchestrator.spec.data import BuiltinSource, CsvSource, FileSource, TextSource

GERMAN = CsvSource(path="/old/*.csv", separator=";", decimal=",", missing=("?",))


@pytest.fixture
def folder(tmp_path):
    for name in ("a-1.csv", "a-2.csv", "a-10.csv", "b.parquet", "c.txt"):
        (tmp_path / name).write_text("x\n1\n")
    return str(tmp_path)


def test_files_of_the_kind_that_was_trained_on_are_read_as_those(folder):
    path = f"{folder}/a-1.csv"
    assert source_at(path, GERMAN) == GERMAN.model_copy(update={"path": path})
    assert source_at(path, BuiltinSource(name="iris")) == CsvSource(path=path)
    assert source_at(f"{folder}/b.parquet", GERMAN) == FileSource(kind="parquet", path=f"{folder}/b.parquet")
    lines = TextSource(path="/old", rows="paragraph")
    assert source_at(f"{folder}/c.txt", lines).rows == "paragraph"


def test_what_a_shell_makes_of_a_pattern_is_the_pattern_again(folder):
    assert one_path([f"{folder}/b.parquet"]) == f"{folder}/b.parquet"
    expanded = [f"{folder}/{name}" for name in ("a-1.csv", "a-10.csv", "a-2.csv")]
    assert one_path(expanded) == f"{folder}/a-*.csv"
    with pytest.raises(SpecError, match=r"no pattern with one . means exactly the 2 files that begin with"):
        one_path([f"{folder}/a-1.csv", f"{folder}/a-2.csv"])
