"""A data set is what its files hold: of other values it is another, copied or touched it is the same."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from object_buckets import bucket_at
from PIL import Image
from pydantic import TypeAdapter

from orchestrator.data.files import write_text
from orchestrator.data.sources import contents
from orchestrator.data.sources.contents import identified
from orchestrator.data.sources.formats import index_source
from orchestrator.data.sources.index import SourceIndex
from orchestrator.spec.data import Source

ROWS = 5000
FORMATS = ("parquet", "csv", "jsonl", "text", "images", "webdataset", "arrow", "numpy")


def values(halved: bool) -> np.ndarray:
    """Of one least, greatest and count; some in the middle are other ones."""
    numbers = np.arange(ROWS, dtype=np.float64)
    numbers[2000:3900] = numbers[2000:3900] / 2 if halved else numbers[2000:3900]
    return numbers


def bitmap(shade: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(out, "BMP")
    return out.getvalue()


def write(kind: str, folder: Path, *, other: bool) -> None:
    """Files of one size, whichever values they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"x": values(other), "label": np.arange(ROWS) % 2})
    lines = [f'{{"x": {i * 7 % 900 + 100 + (other and i == 2500)}}}' for i in range(ROWS)]
    match kind:
        case "parquet":
            pq.write_table(table, folder / "d.parquet", use_dictionary=False, compression="none")
        case "arrow":
            with ipc.new_file(str(folder / "d.arrow"), table.schema) as writer:
                writer.write_table(table)
        case "numpy":
            np.save(folder / "x.npy", values(other).repeat(20))
            np.save(folder / "label.npy", np.arange(ROWS * 20) % 2)
        case "csv":
            (folder / "d.csv").write_text("x,y\n" + "\n".join(line[6:9] + ",1" for line in lines) + "\n")
        case "jsonl":
            (folder / "d.jsonl").write_text("\n".join(lines) + "\n")
        case "text":
            (folder / "d.txt").write_text("\n".join(lines) + "\n")
        case "images":
            for number in range(6):
                (folder / "ab"[number % 2]).mkdir(exist_ok=True)
                (folder / "ab"[number % 2] / f"{number}.bmp").write_bytes(bitmap(number + 99 * other))
        case "webdataset":
            with tarfile.open(folder / "d.tar", "w") as tar:
                for number in range(6):
                    member = tarfile.TarInfo(f"{number}.bmp")
                    content = bitmap(number + 99 * other)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def identity(kind: str, path: Path | str, cache: Path | str) -> str:
    return indexed(kind, path, cache).identity


def indexed(kind: str, path: Path | str, cache: Path | str) -> SourceIndex:
    source = TypeAdapter(Source).validate_python({"kind": kind, "path": str(path)})
    return identified(index_source(source, "/", str(cache)), str(cache))


@pytest.mark.parametrize("kind", FORMATS)
def test_other_values_of_one_shape_are_other_data(kind, tmp_path):
    for name, other in (("a", False), ("b", True)):
        write(kind, tmp_path / name, other=other)
    sizes = [sorted(one.stat().st_size for one in (tmp_path / n).rglob("*.*")) for n in "ab"]
    assert sizes[0] == sizes[1]
    assert identity(kind, tmp_path / "a", tmp_path / "cache") != identity(
        kind, tmp_path / "b", tmp_path / "cache"
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_a_copy_and_a_touched_file_are_the_same_data(kind, tmp_path):
    write(kind, tmp_path / "a", other=False)
    before = identity(kind, tmp_path / "a", tmp_path / "cache")
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    assert identity(kind, tmp_path / "b", tmp_path / "cache") == before
    for file in (tmp_path / "a").rglob("*.*"):
        os.utime(file, (1, 1))
    assert identity(kind, tmp_path / "a", tmp_path / "cache") == before


@pytest.mark.parametrize("kind", FORMATS)
def test_files_changed_in_place_are_other_data_though_their_times_were_put_back(kind, tmp_path):
    folder = tmp_path / "a"
    write(kind, folder, other=False)
    before = identity(kind, folder, tmp_path / "cache")
    times = {file: file.stat() for file in folder.rglob("*.*")}
    write(kind, tmp_path / "b", other=True)
    for file, was in times.items():
        with file.open("r+b") as changed:
            changed.write((tmp_path / "b" / file.relative_to(folder)).read_bytes())
        os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert identity(kind, folder, tmp_path / "cache") != before


def test_an_image_in_another_folder_is_of_another_class(tmp_path):
    write("images", tmp_path / "a", other=False)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):  # the classes change names
        (tmp_path / "b" / old).rename(tmp_path / "b" / new)
    assert identity("images", tmp_path / "a", tmp_path) != identity("images", tmp_path / "b", tmp_path)


def test_files_are_read_once_and_those_that_changed_again(tmp_path, monkeypatch):
    hashed = []
    hash_block = contents._hash_block
    monkeypatch.setattr(
        contents, "_hash_block", lambda path, start: hashed.append(Path(path).name) or hash_block(path, start)
    )
    write("images", tmp_path / "a", other=False)
    for _ in range(2):
        identity("images", tmp_path / "a", tmp_path / "cache")
    assert len(hashed) == 6
    (tmp_path / "a" / "a" / "2.bmp").write_bytes(bitmap(200))
    identity("images", tmp_path / "a", tmp_path / "cache")
    assert hashed[6:] == ["2.bmp"]


def test_a_damaged_ledger_is_made_again(tmp_path):
    write("arrow", tmp_path / "a", other=False)
    before = identity("arrow", tmp_path / "a", tmp_path / "cache")
    (ledger,) = (tmp_path / "cache" / "content-hashes").iterdir()
    content = bytearray(ledger.read_bytes())
    content[len(content) // 3] ^= 1
    ledger.write_bytes(content)
    assert identity("arrow", tmp_path / "a", tmp_path / "cache") == before


def test_a_file_of_many_blocks_is_all_of_them(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "_BLOCK_BYTES", 1000)
    for name, other in (("a", False), ("b", True)):
        write("numpy", tmp_path / name, other=other)
    found = [identity("numpy", tmp_path / name, tmp_path / "cache") for name in ("a", "b")]
    assert found[0] != found[1]
    assert found[0] == identity("numpy", tmp_path / "a", tmp_path / "other")


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_objects_are_what_their_store_says_or_their_bytes(scheme, tmp_path):
    with bucket_at(scheme, "bucket") as bucket:
        for name, second in (("a", 2), ("b", 2), ("c", 3)):
            write_text(f"{bucket}/{name}/d.csv", f"x\n1\n{second}\n")
        found = [identity("csv", f"{bucket}/{name}", tmp_path / name) for name in "abc"]
        assert found[0] == found[1] != found[2]
        schema = pa.schema([("x", pa.float64())])
        for name, first in (("d", 0.0), ("e", 0.0), ("f", 1.0)):
            out = io.BytesIO()
            pq.write_table(pa.table({"x": [first, 1.0]}, schema=schema), out)
            put(f"{bucket}/{name}/d.parquet", out.getvalue())
        found = [identity("parquet", f"{bucket}/{name}", tmp_path / name) for name in "def"]
        assert found[0] == found[1] != found[2]


def put(uri: str, content: bytes) -> None:
    from orchestrator.storage import store_and_name

    store, name = store_and_name(uri)
    store.write(name, content)
