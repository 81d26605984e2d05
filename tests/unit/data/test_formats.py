"""Every format: the rows that went in come out, group by group, with the type that they had."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_jobs import job_of
from PIL import Image

from orchestrator.data.preparations.raw_rows import RawRows
from orchestrator.data.prepare_data import prepare_job
from orchestrator.data.sources.formats import FORMATS, format_of, index_source, lines, row_groups
from orchestrator.data.sources.index import SourceIndex
from orchestrator.data.sources.split import Part, SourceRows
from orchestrator.errors import DataError
from orchestrator.spec.data import CsvSource, FileSource, TextSource

ROWS = 300


def source(kind: str, path: Path) -> CsvSource | FileSource:
    return CsvSource(path=str(path)) if kind == "csv" else FileSource(kind=kind, path=str(path))


def write_parquet(folder: Path) -> None:
    for number in range(3):
        ids = np.arange(number * 100, number * 100 + 100)
        table = pa.table(
            {"id": ids, "value": ids * 0.5, "pair": pa.FixedSizeListArray.from_arrays(np.repeat(ids, 2), 2)}
        )
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=33)


def write_csv(folder: Path) -> None:
    for number in range(3):
        rows = [f'{i},{i * 0.5},"a, ""b""\n{i}"' for i in range(number * 100, number * 100 + 100)]
        (folder / f"part-{number}.csv").write_text(
            "id,value,note\n" + "\n".join(rows) + ("\n" if number else "")
        )


def write_jsonl(folder: Path) -> None:
    for number in range(3):
        rows = [
            json.dumps({"id": i, "value": i * 0.5, "inner": {"x": i}})
            for i in range(number * 100, number * 100 + 100)
        ]
        (folder / f"part-{number}.jsonl").write_text("\n".join(rows) + "\n\n")


def write_webdataset(folder: Path) -> None:
    for number in range(3):
        with tarfile.open(folder / f"part-{number}.tar", "w") as tar:
            for i in range(number * 100, number * 100 + 100):
                add = {"id.cls": str(i).encode(), "value.json": json.dumps({"x": i * 0.5}).encode()}
                # a name that does not fit into a plain header
                stem = f"{'long-folder-' * 12}/{i:06d}"
                for extension, content in add.items():
                    info = tarfile.TarInfo(f"{stem}.{extension}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))


def write_arrow_stream(folder: Path) -> None:
    for number in range(3):
        ids = np.arange(number * 100, number * 100 + 100)
        table = pa.table({"id": ids, "value": ids * 0.5})
        with (
            pa.OSFile(str(folder / f"data-{number:05d}-of-00003.arrow"), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table, max_chunksize=40)


def write_arrow_file(folder: Path) -> None:
    ids = np.arange(ROWS)
    table = pa.table({"id": ids, "value": ids * 0.5})
    with pa.OSFile(str(folder / "all.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=40)


def write_numpy(folder: Path) -> None:
    np.save(folder / "id.npy", np.arange(ROWS))
    np.save(folder / "value.npy", np.arange(ROWS) * 0.5)
    np.save(folder / "grid.npy", np.arange(ROWS * 6, dtype=np.float32).reshape(ROWS, 2, 3))


CASES = {
    "parquet": ("parquet", write_parquet),
    "csv": ("csv", write_csv),
    "jsonl": ("jsonl", write_jsonl),
    "webdataset": ("webdataset", write_webdataset),
    "arrow-stream": ("arrow", write_arrow_stream),
    "arrow-file": ("arrow", write_arrow_file),
    "numpy": ("numpy", write_numpy),
}


@pytest.fixture(params=CASES)
def indexed(request, tmp_path, monkeypatch) -> SourceIndex:
    monkeypatch.setattr(row_groups, "GROUP_BYTES", 700)
    monkeypatch.setattr(lines, "_SCAN_BYTES", 512)
    monkeypatch.setattr("orchestrator.data.sources.formats.webdataset._GROUP_BYTES", 40_000)
    monkeypatch.setattr("orchestrator.data.sources.formats.arrays._GROUP_BYTES", 2_000)
    kind, write = CASES[request.param]
    write(tmp_path)
    return index_source(source(kind, tmp_path), "/", str(tmp_path / "cache"))


def ids_of(index: SourceIndex, columns: tuple[str, ...]) -> pa.Table:
    return pa.concat_tables(list(RawRows([SourceRows(index, Part())], columns)))


def test_all_rows_come_in_order_from_groups_that_are_small(indexed):
    name = "id.cls" if indexed.kind == "webdataset" else "id"
    table = ids_of(indexed, (name,))
    assert table[name].to_pylist() == list(range(ROWS))
    assert len(indexed.group_rows) > 3
    assert indexed.rows == ROWS


def test_values_come_with_their_types(indexed):
    columns = indexed.schema.names
    table = ids_of(indexed, tuple(columns))
    if "value" in columns:
        assert table["value"].to_pylist() == [i * 0.5 for i in range(ROWS)]
    if "note" in columns:
        assert table["note"][7].as_py() == 'a, "b"\n7'
    if "inner" in columns:
        assert table["inner"][7].as_py() == {"x": 7}
    if "grid" in columns:
        assert table["grid"].combine_chunks().to_numpy_ndarray()[7].tolist() == [[42, 43, 44], [45, 46, 47]]


def test_one_group_is_read_alone(indexed):
    """Reading starts anywhere without what lies before it."""
    name = "id.cls" if indexed.kind == "webdataset" else "id"
    for group in (0, 2, len(indexed.group_rows) - 1):
        first, rows = int(indexed.group_starts[group]), int(indexed.group_rows[group])
        table = format_of(indexed.kind).read(indexed, group, (name,))
        assert table[name].to_pylist() == list(range(first, first + rows))


def test_the_index_is_kept_and_follows_changes(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    path.write_text("id\n1\n2\n")
    cache = str(tmp_path / "cache")
    assert index_source(source("csv", path), "/", cache).rows == 2
    monkeypatch.setattr(lines, "scan", None)
    assert index_source(source("csv", path), "/", cache).rows == 2
    monkeypatch.undo()
    path.write_text("id\n1\n2\n3\n")
    assert index_source(source("csv", path), "/", cache).rows == 3


def test_a_csv_column_may_widen_further_down(tmp_path, monkeypatch):
    monkeypatch.setattr(row_groups, "GROUP_BYTES", 40)
    path = tmp_path / "a.csv"
    path.write_text("id\n" + "\n".join(str(i) for i in range(50)) + "\n0.25\n")
    index = index_source(source("csv", path), "/", str(tmp_path / "cache"))
    last = format_of("csv").read(index, len(index.group_rows) - 1, ("id",))
    assert last["id"][-1].as_py() == 0.25


def test_images_in_folders_have_their_folders_number(tmp_path):
    for name in ("zebra", "ant"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (4, 6), (number, 0, 0)).save(tmp_path / "all" / name / f"{number}.png")
    index = index_source(source("images", tmp_path / "all"), "/", str(tmp_path / "cache"))
    assert index.classes == ("ant", "zebra")
    table = format_of("images").read(index, 0, ("image", "label"))
    assert table["label"].to_pylist() == [0, 0, 0, 1, 1, 1]
    assert Image.open(io.BytesIO(table["image"][2].as_py())).size == (4, 6)


def test_every_kind_of_source_has_a_format():
    kinds = set(FileSource.model_fields["kind"].annotation.__args__) | {
        section.model_fields["kind"].default for section in (CsvSource, TextSource)
    }
    assert kinds == set(FORMATS)
    for kind in FORMATS:
        assert format_of(kind).extensions is not None


# -- faults ----------------------------------------------------------------------------------------------------


def broken(tmp_path: Path, kind: str, names: dict[str, bytes | str]) -> str:
    """The message on indexing and reading these files."""
    for name, content in names.items():
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        index = index_source(source(kind, tmp_path / "data"), "/", str(tmp_path / "cache"))
        ids_of(index, tuple(index.schema.names))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parquet_bytes(**columns) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def test_missing_files_are_named_with_what_is_there(tmp_path):
    (tmp_path / "train.parquet").write_bytes(parquet_bytes(a=[1]))
    with pytest.raises(
        DataError, match=r"trian.parquet: there is no such file or folder; .* has train.parquet"
    ):
        index_source(source("parquet", tmp_path / "trian.parquet"), "/", str(tmp_path))


@pytest.mark.parametrize("kept", [0, 3, 200])
def test_a_cut_parquet_file_is_named(tmp_path, kept):
    whole = parquet_bytes(a=list(range(1000)))
    assert "b.parquet: is not a whole Parquet file" in broken(
        tmp_path, "parquet", {"a.parquet": whole, "b.parquet": whole[:kept]}
    )


def test_a_damaged_page_is_named(tmp_path):
    whole = bytearray(parquet_bytes(a=np.arange(100_000)))
    whole[5_000:50_000] = bytes(45_000)
    assert "a.parquet: is damaged" in broken(tmp_path, "parquet", {"a.parquet": bytes(whole)})


def test_a_column_of_two_types_is_named_with_both_files(tmp_path):
    message = broken(
        tmp_path, "parquet", {"a.parquet": parquet_bytes(x=[1]), "b.parquet": parquet_bytes(x=[0.5])}
    )
    assert (
        "column 'x' is int64 in" in message
        and "a.parquet, but double in" in message
        and "b.parquet" in message
    )


def test_a_missing_column_is_named(tmp_path):
    message = broken(
        tmp_path, "parquet", {"a.parquet": parquet_bytes(x=[1], y=[1]), "b.parquet": parquet_bytes(x=[1])}
    )
    assert "b.parquet: has no column 'y'" in message


def test_other_faults_are_one_sentence_each(tmp_path):
    cases = {
        "no rows": ("parquet", {"a.parquet": parquet_bytes(x=pa.array([], pa.int64()))}),
        "has no column 'y'": ("csv", {"a.csv": "x,y\n1,2\n", "b.csv": "x,z\n1,2\n"}),
        "a.csv, row 0: has 3 columns, but the header has 2": ("csv", {"a.csv": "x,y\n1,2,3\n4\n"}),
        "is not a whole tar": ("webdataset", {"a.tar": b"x" * 2000}),
        "is not a whole Arrow file": ("arrow", {"a.arrow": b"x" * 2000}),
        "is not an .npy file": ("numpy", {"a.npy": b"x" * 2000}),
        "must have one length": ("numpy", {"a.npy": npy(np.arange(3)), "b.npy": npy(np.arange(4))}),
        "is not UTF-8": ("text", {"a.txt": b"ab\n\xff\n"}),
    }
    for number, (expected, (kind, files)) in enumerate(cases.items()):
        if kind == "text":
            continue
        assert expected in broken(tmp_path / str(number), kind, files)


def npy(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


def test_objects_in_numpy_files_are_not_loaded(tmp_path):
    sink = io.BytesIO()
    np.save(sink, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "write numbers" in broken(tmp_path, "numpy", {"a.npy": sink.getvalue()})


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet_bytes(x=[1, 2, 3]))
    index = index_source(source("parquet", path), "/", str(tmp_path))
    path.write_bytes(parquet_bytes(x=[1, 2]))
    with pytest.raises(DataError, match="must not change"):
        format_of("parquet").read(index, 0, ("x",))


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_number_of_classes_is_found_in_the_file(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(row_groups, "GROUP_BYTES", 200)
    labels = [i % 3 for i in range(100)] + [6]  # the greatest stands at the end
    path = tmp_path / f"rows.{kind}"
    if kind == "csv":
        path.write_text("features,label\n" + "".join(f"{i / 7},{label}\n" for i, label in enumerate(labels)))
    elif kind == "jsonl":
        path.write_text(
            "".join(json.dumps({"features": i / 7, "label": label}) + "\n" for i, label in enumerate(labels))
        )
    else:
        pq.write_table(pa.table({"features": [i / 7 for i in range(101)], "label": labels}), path)
    job = job_of({"train": {"kind": kind, "path": str(path)}}, batch=8)
    for _ in range(2):  # the second time from the cache
        assert prepare_job(job, "/", str(tmp_path / "cache")).dims["outputs"] == 7
