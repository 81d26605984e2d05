"""Ways to spoil small files: bytes, lines, columns of every type, names. Each is a pure function of a seeded generator."""

from __future__ import annotations

import datetime
import os
import random
import shutil
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from seeds import ROWS, plain_table

CELLS = (
    "",
    " ",
    "nan",
    "NA",
    "null",
    "inf",
    "-inf",
    "1e400",
    "1e-400",
    "9" * 30,
    "-0",
    "0x10",
    "1_000",
    "1,5",
    "1.234,5",
    "1,000",
    "+3",
    "True",
    "2024-01-02",
    '"',
    '""',
    "'",
    "a\x00b",
    "\ufeff",
    "é" * 50,
    "\\N",
    "[1]",
    "{}",
    "18446744073709551615",
    "9223372036854775808",
    "0.1e",
    "٣",
    "x" * 2000,
    "\t",
    "\x1a",
    "\u2028",
)


def change_bytes(content: bytes, random_: random.Random) -> bytes:
    """One to three changes of a few bytes anywhere."""
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        place = random_.randrange(len(data) + 1) if data else 0
        size = random_.choice((1, 1, 2, 4, 16, 100))
        match random_.randrange(8):
            case 0 if place < len(data):
                data[place] ^= 1 << random_.randrange(8)
            case 1:
                data[place : place + size] = random_.randbytes(size)
            case 2:
                del data[place : place + size]
            case 3:
                data[place:place] = random_.randbytes(size)
            case 4:
                del data[place:]
            case 5:
                data[place : place + size] = bytes(len(data[place : place + size]))
            case 6:
                data[place:place] = data[place : place + size]
            case _:
                data[place : place + size] = b"\xff" * len(data[place : place + size])
    return bytes(data)


def change_lines(content: bytes, random_: random.Random) -> bytes:
    """A line, a cell, or how all lines end."""
    lines = content.splitlines(keepends=True)
    place = random_.randrange(len(lines))
    cell = random_.choice(CELLS).encode()
    match random_.randrange(13):
        case 0:
            lines.insert(place, lines[place])
        case 1:
            del lines[place]
        case 2:
            lines.insert(place, random_.choice((b"\n", b"\r\n", b"  \n", b",,,\n", b"#\n", b"\x00\n")))
        case 3:
            lines[place] = lines[place].rstrip(b"\r\n")
        case 4:
            lines = [line.rstrip(b"\r\n") + b"\r\n" for line in lines]
        case 5:
            lines = [line.rstrip(b"\r\n") + b"\r" for line in lines]
        case 6:
            lines[0] = random_.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\x1f\x8b")) + lines[0]
        case 7:
            random_.shuffle(lines)
        case 8:
            return content.decode("utf-8", "replace").encode(
                random_.choice(("utf-16", "utf-32", "utf-8-sig"))
            )
        case 9:
            lines = lines[: random_.randrange(3)]
        case _:
            mark = next((one for one in (b";", b",") if one in lines[place]), b" ")
            cells = lines[place].rstrip(b"\r\n").split(mark)
            where = random_.randrange(len(cells))
            cells[where] = cells[where].split(b":")[0] + b": " + cell if b":" in cells[where] else cell
            lines[place] = mark.join(cells) + b"\n"
    return b"".join(lines)


def _columns() -> Iterator[tuple[str, pa.Array]]:
    ids = list(range(ROWS))
    day = datetime.datetime(2024, 1, 1, 12, tzinfo=datetime.UTC)
    for kind in [
        "int8",
        "uint8",
        "int16",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "bool",
        "date32",
        "date64",
    ]:
        values = pa.array([i % 2 for i in ids])
        yield (
            kind,
            values.cast(pa.int32()).cast(pa.type_for_alias(kind))
            if kind != "date64"
            else values.cast(pa.int32()).cast(pa.date32()).cast(pa.date64()),
        )
    yield "null", pa.nulls(ROWS)
    yield "all null int", pa.nulls(ROWS, pa.int64())
    yield "all null text", pa.nulls(ROWS, pa.string())
    yield "large uint64", pa.array([2**64 - 1 - i for i in ids], pa.uint64())
    yield "large int", pa.array([2**62 + i for i in ids])
    yield "huge label", pa.array([2**40 if i == 3 else 0 for i in ids])
    yield "negative", pa.array([-i for i in ids])
    yield "one value", pa.array([1] * ROWS)
    yield "nan", pa.array([float("nan") if i == 3 else float(i) for i in ids])
    yield "inf", pa.array([float("inf") if i == 3 else float(i) for i in ids])
    yield "null int", pa.array([None if i == 3 else i for i in ids])
    yield "first null", pa.array([None if i == 0 else i for i in ids])
    yield "decimal128", pa.array([Decimal(i) / 4 for i in ids], pa.decimal128(12, 2))
    yield "decimal256", pa.array([Decimal(i) for i in ids], pa.decimal256(60, 2))
    yield "string", pa.array([str(i) for i in ids])
    yield "large string", pa.array([str(i) for i in ids], pa.large_string())
    yield "string view", pa.array([f"a string that is long {i}" for i in ids], pa.string_view())
    yield "null string", pa.array([None if i == 3 else str(i) for i in ids])
    yield "binary", pa.array([b"%d" % i for i in ids])
    yield "null binary", pa.array([None if i == 0 else b"x" for i in ids])
    yield "large binary", pa.array([b"%d" % i for i in ids], pa.large_binary())
    yield "binary view", pa.array([b"%d" % i for i in ids], pa.binary_view())
    yield "fixed binary", pa.array([b"%04d" % i for i in ids], pa.binary(4))
    yield "dictionary", pa.array(["ab"[i % 2] for i in ids]).dictionary_encode()
    yield "dictionary int", pa.array([i % 3 for i in ids]).dictionary_encode()
    yield "run ends", pa.RunEndEncodedArray.from_arrays(pa.array([10, ROWS]), pa.array([1, 2]))
    yield "time32", pa.array(ids, pa.time32("s"))
    yield "time64", pa.array(ids, pa.time64("us"))
    yield "duration", pa.array(ids, pa.duration("s"))
    yield "timestamp", pa.array([day + datetime.timedelta(days=i) for i in ids], pa.timestamp("ns"))
    yield "timestamp tz", pa.array([day] * ROWS, pa.timestamp("us", tz="Europe/Vienna"))
    yield "far timestamp", pa.array([2**60 + i for i in ids], pa.timestamp("s"))
    yield "interval", pa.array([(1, 2, 3)] * ROWS, pa.month_day_nano_interval())
    yield "list", pa.array([[i, i + 1] for i in ids])
    yield "ragged list", pa.array([[i] * (i % 3) for i in ids])
    yield "empty lists", pa.array([[] for _ in ids], pa.list_(pa.int64()))
    yield "list of null", pa.array([[None, i] for i in ids])
    yield "null list", pa.array([None if i == 3 else [i, i] for i in ids])
    yield "list of strings", pa.array([["a", "b"]] * ROWS)
    yield "large list", pa.array([[i, i] for i in ids], pa.large_list(pa.float32()))
    yield "list view", pa.array([[i, i] for i in ids], pa.list_view(pa.int64()))
    yield "large list view", pa.array([[i, i] for i in ids], pa.large_list_view(pa.int64()))
    yield "list of lists", pa.array([[[i, 1], [2, 3]] for i in ids])
    yield "list of structs", pa.array([[{"x": i}] for i in ids])
    yield "fixed list", pa.array([[i, i] for i in ids], pa.list_(pa.float32(), 2))
    yield "fixed list of nulls", pa.array([[i, None] for i in ids], pa.list_(pa.int64(), 2))
    yield "null fixed list", pa.array([None if i == 3 else [i, i] for i in ids], pa.list_(pa.int64(), 2))
    yield "fixed list of none", pa.array([[] for _ in ids], pa.list_(pa.int64(), 0))
    yield "fixed list of strings", pa.array([["a"] for _ in ids], pa.list_(pa.string(), 1))
    yield "fixed list of lists", pa.array([[[i], [i]] for i in ids], pa.list_(pa.list_(pa.int64()), 2))
    yield "fixed list of bools", pa.array([[True, False] for _ in ids], pa.list_(pa.bool_(), 2))
    yield "struct", pa.array([{"x": i, "y": str(i)} for i in ids])
    yield "null struct", pa.array([None if i == 3 else {"x": i} for i in ids])
    yield "empty struct", pa.array([{} for _ in ids], pa.struct([]))
    yield "struct of bytes", pa.array([{"bytes": b"x", "path": None} for _ in ids])
    yield "struct of numbers named bytes", pa.array([{"bytes": i} for i in ids])
    yield "nested struct", pa.array([{"x": {"y": {"z": i}}} for i in ids])
    yield "map", pa.array([[("k", i)] for i in ids], pa.map_(pa.string(), pa.int64()))
    yield "tensor", pa.FixedShapeTensorArray.from_numpy_ndarray(np.arange(ROWS * 6.0).reshape(ROWS, 2, 3))
    yield "union", pa.UnionArray.from_sparse(pa.array([0] * ROWS, pa.int8()), [pa.array(ids), pa.array(ids)])
    yield "json", pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}"] * ROWS))
    yield (
        "uuid",
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"%016d" % i for i in ids], pa.binary(16))),
    )
    yield "bool8", pa.ExtensionArray.from_storage(pa.bool8(), pa.array([i % 2 for i in ids], pa.int8()))
    yield "opaque", pa.ExtensionArray.from_storage(pa.opaque(pa.int64(), "t", "v"), pa.array(ids))


COLUMNS = dict(_columns())
ROLES = ("a", "label", "extra")
NAMES = (
    "",
    " ",
    "a.b",
    "a",
    "label",
    "é",
    "a\nb",
    "*",
    "features",
    "x" * 3000,
    "sample_id",
    "weight",
    "\x00",
    "..",
)
TABLES = ("no rows", "no columns", "only label", "many row groups", "empty batches", "metadata", "encrypted")


def write_table(rows: pa.Table, path: Path) -> None:
    """As the ending says. Raises pa.ArrowException where the format has no such type."""
    if path.suffix == ".parquet":
        pq.write_table(rows, path, row_group_size=10)
        return
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=10)


def with_column(name: str, role: str) -> pa.Table:
    """The plain table with a column of a type in a role."""
    rows, column = plain_table(), COLUMNS[name]
    place = rows.schema.get_field_index(role)
    return rows.append_column(role, column) if place < 0 else rows.set_column(place, role, column)


def odd_table(which: str) -> pa.Table:
    """A table of a strange whole."""
    rows = plain_table()
    match which:
        case "no rows":
            return rows.slice(0, 0)
        case "no columns":
            return rows.select([])
        case "only label":
            return rows.select(["label"])
        case "empty batches":
            batches = rows.to_batches(max_chunksize=5)
            return pa.Table.from_batches([batches[0].slice(0, 0), *batches, batches[0].slice(0, 0)])
        case "metadata":
            return rows.replace_schema_metadata({b"pandas": b"{", b"\xff": b"\x00"})
    return rows


def named(name: str, random_: random.Random) -> pa.Table:
    """A column renamed."""
    rows = plain_table()
    names = rows.column_names
    names[random_.randrange(len(names))] = name
    return rows.rename_columns(names)


FOLDERS = (
    "empty file beside",
    "hidden beside",
    "text beside",
    "folder of its name",
    "broken link",
    "link to itself",
    "link to a folder above",
    "renamed upper",
    "brackets",
    "question",
    "hash",
    "percent",
    "newline",
    "not utf-8",
    "space",
    "long name",
    "compressed beside",
    "only compressed",
    "no permission",
    "all gone",
    "doubled",
    "nested",
    "mac beside",
    "success beside",
    "pipe beside",
)


def change_names(folder: Path, how: str) -> None:
    """Files and folders around the data. The first file is changed where one is."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    first = files[0]
    ending, home = first.suffix, first.parent
    renamed = {
        "brackets": f"a[1]{ending}",
        "question": f"a?{ending}",
        "hash": f"a#b{ending}",
        "percent": f"a%20b{ending}",
        "newline": f"a\nb{ending}",
        "space": f" a b {ending}",
        "long name": "x" * 240 + ending,
        "renamed upper": first.name.upper(),
        "only compressed": first.name + ".gz",
    }
    if how in renamed:
        first.rename(home / renamed[how])
        return
    match how:
        case "empty file beside":
            (home / f"zero{ending}").touch()
        case "hidden beside":
            (home / f".hidden{ending}").write_bytes(b"junk")
        case "mac beside":
            (home / f"._{first.name}").write_bytes(b"junk")
        case "text beside":
            (home / "README.md").write_text("about")
        case "folder of its name":
            (home / f"folder{ending}").mkdir()
        case "broken link":
            (home / f"link{ending}").symlink_to(home / "nowhere")
        case "link to itself":
            (home / f"link{ending}").symlink_to(home / f"link{ending}")
        case "link to a folder above":
            (home / "again").symlink_to(folder)
        case "not utf-8":
            Path(os.fsdecode(bytes(home) + b"/\xff" + ending.encode())).write_bytes(first.read_bytes())
        case "compressed beside":
            (home / f"{first.name}.gz").write_bytes(b"\x1f\x8b junk")
        case "no permission":
            first.chmod(0)
        case "all gone":
            for file in files:
                file.unlink()
        case "doubled":
            shutil.copy(first, home / f"other{ending}")
        case "nested":
            (home / "deep" / "er").mkdir(parents=True)
            shutil.copy(first, home / "deep" / "er" / f"other{ending}")
        case "success beside":
            (home / "_SUCCESS").touch()
        case "pipe beside":
            os.mkfifo(home / f"pipe{ending}")
