"""CSV and JSON lines as people have them: how they are written is found and said, and no value is another than it stands there."""

import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pytest
from data_jobs import job_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from orchestrator.data.fit import training_batches
from orchestrator.data.prepare_data import prepare_job
from orchestrator.data.prepared import Prepared
from orchestrator.data.sources.formats import format_of
from orchestrator.data.sources.formats.cutter import Cutter, RowRules
from orchestrator.data.sources.index import SourceIndex
from orchestrator.errors import DataError
from orchestrator.spec.data import CsvSource, FileSource


def prepared(folder: Path, text: str | bytes, **data) -> Prepared:
    """A CSV of this text, prepared as training data of an ``mlp``."""
    file = folder / "t.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = {"kind": "csv", "path": str(file), **data.pop("source", {})}
    return prepare_job(job_of({"train": source, **data}), str(folder), str(folder / "cache"))


def read(folder: Path, content: str | bytes, kind: str = "csv", **options) -> tuple[pa.Table, SourceIndex]:
    """All rows of a file with this text."""
    file = folder / f"t.{kind}"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    section = CsvSource if kind == "csv" else FileSource
    source = section(kind=kind, path=str(file), **options)
    index = format_of(kind).index(source, str(file), str(folder / "cache"))
    groups = [format_of(kind).read(index, g, index.schema.names) for g in range(len(index.group_rows))]
    return pa.concat_tables(groups), index


def refusal(folder: Path, text: str | bytes, kind: str = "csv", **options) -> str:
    with pytest.raises(DataError) as caught:
        read(folder, text, kind, **options)
    return str(caught.value)


def features(data: Prepared) -> np.ndarray:
    return np.concatenate([batch["features"] for batch in training_batches(data.train, 0)])


def test_a_column_may_have_dots_in_its_name(tmp_path):
    text = "Sepal.Length,Sepal.Width,label\n" + "".join(f"{i}.5,{i},{i % 2}\n" for i in range(20))
    data = prepared(tmp_path, text, columns={"features": ["Sepal.Length", "Sepal.Width"]})
    np.testing.assert_array_equal(features(data), [(i + 0.5, i) for i in range(20)])


def test_preparing_is_linear_in_the_number_of_columns(tmp_path):
    def seconds(columns):
        folder = tmp_path / str(columns)
        folder.mkdir()
        rows = [",".join(str(i * j % 7) for j in range(columns)) + f",{i % 2}" for i in range(40)]
        text = ",".join([*(f"c{j}" for j in range(columns)), "label"]) + "\n" + "\n".join(rows)
        start = time.process_time()
        data = prepared(folder, text, columns={"features": "*"})
        assert data.dims["features"] == columns
        return time.process_time() - start

    seconds(10)  # imports what it needs
    # five times the columns; were it quadratic, it would take 25 times as long
    assert seconds(10_000) < 12 * seconds(2_000)


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(['"', '""', ",", "\n", "\r\n", "\r", "a", "b", '"x,\n"', " "]), max_size=40),
    st.integers(1, 7),
)
def test_rows_end_where_arrow_ends_them(parts, size):
    body = "".join(parts).encode()
    seen: list[str] = []
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(b"h\n" + body + b"\n"),
            parse_options=arrow_csv.ParseOptions(
                newlines_in_values=True, invalid_row_handler=lambda row: seen.append(row.text) or "skip"
            ),
        )
        rows: int | None = table.num_rows + len(seen)
    except pa.ArrowInvalid:  # "cannot go on within a quoted field"
        rows = None
    cutter = Cutter(RowRules(b"\r\n", b",", b'"'))
    data = np.frombuffer(body + b"\n", np.uint8)
    ends = [end for at in range(0, len(data), size) for end in cutter.feed(data[at : at + size])]
    ends += list(cutter.finish())
    if not cutter.quoted and rows is not None:
        assert len(ends) == rows
        assert ends == sorted(set(ends))


def test_a_quote_within_a_field_is_a_letter(tmp_path):
    rows = [f'{i},{i}" pipe,{i % 2}' if i == 3 else f"{i},x,{i % 2}" for i in range(20)]
    table, _ = read(tmp_path, "a,b,label\n" + "\n".join(rows))
    assert table["b"].to_pylist() == ['3" pipe' if i == 3 else "x" for i in range(20)]


def test_a_quoted_field_that_never_ends_is_named(tmp_path):
    assert "begins at byte 6 never ends" in refusal(tmp_path, 'a,b\n1,"x\n2,y\n')
    table, _ = read(tmp_path, 'a,b\n1,"x\n2,y\n', quote="")
    assert table["b"].to_pylist() == ['"x', "y"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_lines_may_end_in_any_way_and_the_last_in_none(tmp_path, end, last):
    text = end.join(["name,text", "John,hi", '"A,B","c"']) + (end if last else "")
    table, _ = read(tmp_path, text)
    assert table.to_pydict() == {"name": ["John", "A,B"], "text": ["hi", "c"]}


def test_columns_of_one_name_are_told_apart_by_their_place(tmp_path):
    text = "a,b,b,\n" + "".join(f"{i},{i},x,7\n" for i in range(4))
    table, _ = read(tmp_path, text)
    assert table.column_names == ["a", "b (column 2)", "b (column 3)", "(column 4)"]
    assert table["b (column 2)"].to_pylist() == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"no column 'b'; it has label, b \(column 2\)"):
        prepared(tmp_path, text.replace("a,b", "label,b"), columns={"features": ["b"]})


@pytest.mark.parametrize(
    ("text", "options", "found", "rows"),
    [
        ("a;b\n1,5;x\n2,25;y\n", {}, "separator ';', decimal ','", [(1.5, "x"), (2.25, "y")]),
        ("a\tb\n1\tx, y\n2\ty\n", {}, r"separator '\t'", [(1, "x, y"), (2, "y")]),
        ("a|b\n1|x\n", {}, "separator '|'", [(1, "x")]),
        ("a;b\n1.234,5;x\n2,25;y\n", {}, "decimal ',', thousands '.'", [(1234.5, "x"), (2.25, "y")]),
        ('a,b\n"1,234.5",x\n"12",y\n', {}, "thousands ','", [(1234.5, "x"), (12, "y")]),
        ('a,b\n"1,000",x\n', {}, 'give the source thousands: "," or decimal: ","', [("1,000", "x")]),
        ('a,b\n"1,000",x\n', {"thousands": ","}, None, [(1000, "x")]),
        ('a,b\n"1,000",x\n', {"decimal": ","}, None, [(1.0, "x")]),
        ("a,b\n?,x\n3,?\n", {"missing": ["?"]}, None, [(None, "x"), (3, None)]),
        ("a,b\n007,x\n1,\n", {"text": ["a"]}, None, [("007", "x"), ("1", None)]),
        ("a,b\n1,NA\nNA,x\n", {}, None, [(1, "NA"), (None, "x")]),
        ("a,b\n1,ü\n".encode("cp1252"), {}, "encoding 'cp1252'", [(1, "ü")]),
        ("a,b\n1,x\n2,ü".encode("cp1252"), {}, "encoding 'cp1252'", [(1, "x"), (2, "ü")]),
        ("a,b\n1,世\n".encode("gbk"), {"encoding": "gbk"}, None, [(1, "世")]),
        (b"\xef\xbb\xbfa,b\n1,x\n", {}, None, [(1, "x")]),
        ("a,b\n18446744073709551615,x\n", {}, None, [(2**64 - 1, "x")]),
        ("a,b\n28446744073709551615,x\n", {}, None, [("28446744073709551615", "x")]),
    ],
)
def test_how_a_csv_is_written_is_found_or_given(tmp_path, text, options, found, rows):
    table, index = read(tmp_path, text, **options)
    assert list(zip(*(column.to_pylist() for column in table.columns), strict=True)) == rows
    if found is None:
        assert index.found == ()
    else:
        assert found in index.found[0]


def test_a_plan_says_how_a_csv_is_written(tmp_path):
    text = "a;label\n" + "".join(f"{i},5;{i % 2}\n" for i in range(10))
    data = prepared(tmp_path, text, columns={"features": ["a"]})
    assert data.notes == (
        "t.csv is read with separator ';', decimal ',', as its beginning shows; data.train can say otherwise",
    )
    np.testing.assert_array_equal(features(data)[:, 0], np.arange(10) + 0.5)


def test_a_header_may_be_in_another_encoding(tmp_path):
    text = "a,é,label\n" + "".join(f"{i},{i},{i % 2}\n" for i in range(10))
    table, _ = read(tmp_path, text.encode("latin-1"))
    assert table.column_names == ["a", "é", "label"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_utf16_is_a_sentence_with_the_mend(tmp_path, kind):
    text = "a,label\n1,0\n" if kind == "csv" else '{"a": 1}\n'
    assert "iconv -f UTF-16 -t UTF-8" in refusal(tmp_path, text.encode("utf-16"), kind)
    with pytest.raises(ValidationError, match="iconv -f utf-16"):
        CsvSource(path="x", encoding="utf-16")


def test_a_row_too_short_and_in_another_encoding_is_a_sentence(tmp_path):
    assert "has 1 columns, but the header has 2" in refusal(tmp_path, "a,b\n1\xfc".encode("latin-1"))
    said = refusal(tmp_path, b"a,b\n1,2\n1\xfc\n", encoding="utf-8")
    assert "is not UTF-8 text further down (byte 0xfc" in said and "give the source its encoding" in said


def test_a_value_unlike_its_column_is_named_with_its_row(tmp_path):
    text = "a,b\n" + "".join(f"{i},{i}\n" for i in range(400_000)) + "1,2\nx,3\n"
    assert "row 400001: column 'a' has 'x', but began with numbers" in refusal(tmp_path, text)
    assert "row 400001: has 1 columns, but the header has 2: 'x'" in refusal(
        tmp_path, text.replace("x,3", "x")
    )


def test_fractions_further_down_leave_other_columns_whole(tmp_path):
    text = "a,b\n" + f"1,{2**60 + 1}\n" * 100_000 + f"1.5,{2**60 + 1}\n"
    _, index = read(tmp_path, "a,b\n1,2\n")
    file = tmp_path / "t.csv"
    file.write_text(text)
    index = format_of("csv").index(CsvSource(path=str(file)), str(file), str(tmp_path / "cache"))
    last = format_of("csv").read(index, len(index.group_rows) - 1, ("a", "b"))
    assert last["a"][-1].as_py() == 1.5
    assert last["b"][-1].as_py() == 2**60 + 1


def test_blank_lines_between_json_rows_are_none(tmp_path):
    rows = [{"x": i, "label": i % 2} for i in range(20)]
    table, _ = read(tmp_path, "".join(json.dumps(row) + "\n  \n" for row in rows), "jsonl")
    assert table.to_pylist() == rows


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"x": 1}, {"x": 2}]', "is a JSON array"),
        ('{\n  "x": 1\n}\n', "row 0: is not a JSON object on one line"),
        ('{"x": 1}\n3\n', "row 1: is b'3', not a JSON object"),
        ('{"x": 1}\n{"x": 2\n', "row 1: is not a JSON object on one line"),
    ],
)
def test_json_that_is_no_object_a_line_is_a_sentence(tmp_path, text, expected):
    assert expected in refusal(tmp_path, text, "jsonl")
