"""Which files a path means: nothing is taken that is no data, and nothing is left out without a word."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from orchestrator.data.listing import list_files, natural
from orchestrator.data.sources.formats import index_source
from orchestrator.errors import DataError
from orchestrator.spec.data import FileSource


def names(path: Path | str, *extensions: str, **more: bool) -> list[str]:
    return [Path(one.path).name for one in list_files(str(path), extensions, **more)]


def touch(folder: Path, *paths: str) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("x")


def test_numbers_in_names_are_sorted_by_their_value(tmp_path: Path) -> None:
    touch(tmp_path, *(f"part-{n}.csv" for n in (10, 9, 2, 1, 100)), "part-02.csv")
    assert names(tmp_path, ".csv") == [
        "part-1.csv",
        "part-02.csv",
        "part-2.csv",
        "part-9.csv",
        "part-10.csv",
        "part-100.csv",
    ]
    assert names(f"{tmp_path}/part-1*.csv") == ["part-1.csv", "part-10.csv", "part-100.csv"]


@given(st.lists(st.text("ab01²/._-", max_size=8), max_size=8, unique=True))
def test_names_that_differ_have_one_order(some: list[str]) -> None:
    assert sorted(some, key=natural) == sorted(reversed(some), key=natural)
    assert len({natural(name) for name in some}) == len(some)


@pytest.mark.parametrize("name", ["a[1].csv", "b?.csv", "c#1.csv", "d*.csv", "a b%20.csv", "[x]/y.csv"])
def test_a_path_that_exists_is_that_path(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "a1.csv", "bb.csv", "dd.csv", "x/y.csv")
    assert [one.path for one in list_files(f"{tmp_path}/{name}", (".csv",))] == [f"{tmp_path}/{name}"]
    folder = Path(f"{tmp_path}/{name}").parent
    assert Path(name).name in names(folder, ".csv")


def test_what_a_dot_hides_and_what_spark_leaves_is_no_data(tmp_path: Path) -> None:
    touch(tmp_path, "a.csv", "._a.csv", ".hidden/b.csv", "_SUCCESS", "_temporary/0/c.csv", "_delta_log/0.csv")
    touch(tmp_path, "_old.csv", "_background/d.csv", "_SUCCESS.crc", "_committed_123", "__MACOSX/._a.csv")
    assert sorted(names(tmp_path, ".csv")) == ["_old.csv", "a.csv", "d.csv"]
    assert sorted(names(tmp_path)) == ["_old.csv", "a.csv", "d.csv"]
    assert sorted(names(f"{tmp_path}/*.csv")) == ["_old.csv", "a.csv"]
    assert names(f"{tmp_path}/.hidden/*.csv") == ["b.csv"]


@pytest.mark.parametrize("name", ["b.csv.gz", "b.CSV.ZST", "b.csv.zip"])
def test_a_compressed_file_is_refused_by_name_and_never_left_out(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    for path in (tmp_path, tmp_path / name, f"{tmp_path}/b*"):
        with pytest.raises(DataError, match=rf"{name}: is compressed.*; unpack it \("):
            names(path, ".csv")
    touch(tmp_path, "a.csv")
    with pytest.raises(DataError, match=f"{name}: is compressed"):
        names(tmp_path, ".csv")


def test_troubles_are_sentences(tmp_path: Path) -> None:
    touch(tmp_path, "a.tsv", "b.tsv", "c.tsv", "d.tsv")
    with pytest.raises(
        DataError, match=r"holds no file that ends in \.csv; it has a\.tsv, b\.tsv, c\.tsv \.\.\."
    ):
        names(tmp_path, ".csv")
    with pytest.raises(DataError, match=r"no such file or folder; .* has a\.tsv"):
        names(tmp_path / "e.tsv")
    with pytest.raises(DataError, match=r"\*\.csv: holds no file$"):
        names(f"{tmp_path}/*.csv")
    os.mkdir(os.fsencode(tmp_path) + b"/odd")  # noqa: PTH102
    with open(os.fsencode(tmp_path) + b"/odd/\xff.csv", "w"):  # noqa: PTH123
        pass
    with pytest.raises(DataError, match=r"odd: a file's name is not UTF-8 .*; rename it"):
        names(tmp_path / "odd", ".csv")


def test_folders_with_underscores_are_classes(tmp_path: Path) -> None:
    for name in ("_background", "_metadata", "cat", ".thumbnails"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / name / "1.png")
    touch(tmp_path, "cat/._1.png")
    index = index_source(FileSource(kind="images", path=str(tmp_path)), "/", str(tmp_path / ".cache"))
    assert index.classes == ("_background", "_metadata", "cat") and index.rows == 3


def stream(path: Path, values: list[int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"x": values})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def test_a_hugging_face_folder_is_what_it_names(tmp_path: Path) -> None:
    source = FileSource(kind="arrow", path=str(tmp_path / "ds" / "train"))
    stream(tmp_path / "ds/train/data-00000-of-00001.arrow", [1, 2, 3])
    stream(tmp_path / "ds/train/cache-1234.arrow", [9, 9])
    stream(tmp_path / "ds/test/data-00000-of-00001.arrow", [4])
    assert index_source(source, "/", str(tmp_path / "c")).rows == 3
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": "x"}
    (tmp_path / "ds/train/state.json").write_text(json.dumps(state))
    stream(tmp_path / "ds/train/tmp123.arrow", [9, 9])
    assert index_source(source, "/", str(tmp_path / "c")).rows == 3
    (tmp_path / "ds/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert index_source(source, "/", str(tmp_path / "c")).rows == 3
    for root in ("ds", "."):
        whole = FileSource(kind="arrow", path=str(tmp_path / root))
        with pytest.raises(DataError, match=r"splits train, test; name one: .*/ds/train"):
            index_source(whole, "/", str(tmp_path / "c"))
    (tmp_path / "ds/train/state.json").write_text('{"_data_files": [{"filename": "gone.arrow"}]}')
    with pytest.raises(DataError, match=r"state\.json names gone\.arrow, which is not there"):
        index_source(source, "/", str(tmp_path / "c"))
    stream(tmp_path / "only/cache-1.arrow", [9])
    with pytest.raises(DataError, match="holds only cache-1"):
        index_source(FileSource(kind="arrow", path=str(tmp_path / "only")), "/", str(tmp_path / "c"))
