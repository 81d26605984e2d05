"""Arrays and tars as people have them: right, or one sentence that names the file."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from orchestrator.data.sources.formats import format_of, index_source
from orchestrator.errors import DataError
from orchestrator.spec.data import FileSource


def read(kind: str, path: Path) -> dict[str, np.ndarray]:
    index = index_source(FileSource(kind=kind, path=str(path)), "/", str(path.parent / ".cache"))
    table = format_of(kind).read(index, 0, tuple(index.schema.names))
    return {name: table[name].combine_chunks() for name in table.column_names}


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


@pytest.mark.parametrize("shape", [(20,), (20, 3), (20, 2, 2)])
@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64"])
def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = (np.arange(np.prod(shape)) % 5).reshape(shape).astype(dtype)
    save(tmp_path / "x.npy", values)
    array = read("numpy", tmp_path)["x"]
    ours = array.to_numpy_ndarray() if len(shape) > 1 else array.to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(ours.astype(dtype), values)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.arange(6).astype(np.longdouble), "longdouble|float128"),
        (np.zeros((20, 0)), r"its rows hold nothing, its shape is \(20, 0\)"),
        (np.arange(6).astype(">i4"), "byte order"),
        (np.arange(6).astype(complex), "complex128"),
        (np.asfortranarray(np.zeros((3, 2))), "C order"),
        (np.float64(3), r"of shape \(\)"),
        (np.array(["a", "b"]), "<U1"),
        (np.array([{}], dtype=object), "object"),
    ],
)
def test_arrays_that_are_no_rows_of_numbers_are_sentences(
    tmp_path: Path, array: np.ndarray, words: str
) -> None:
    save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match=rf"x\.npy: .*({words})"):
        read("numpy", tmp_path)


@pytest.mark.parametrize("change", [-50, -1, 1])
def test_an_array_that_was_cut_or_grew_is_a_sentence(tmp_path: Path, change: int) -> None:
    path = save(tmp_path / "x.npy", np.arange(60.0).reshape(20, 3))
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"x")
    with pytest.raises(
        DataError, match=r"x\.npy: has \d+ bytes, but its header says 608; it was cut off or changed"
    ):
        read("numpy", tmp_path)


def test_arrays_of_one_name_in_two_folders_are_not_one_column(tmp_path: Path) -> None:
    save(tmp_path / "a/x.npy", np.arange(3))
    save(tmp_path / "b/x.npy", np.arange(3))
    with pytest.raises(DataError, match=r"b/x\.npy: has the name of .*a/x\.npy"):
        read("numpy", tmp_path)


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as out:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def npy(value: object) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(value))
    return out.getvalue()


def test_members_that_macos_adds_are_no_samples(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "a.tar",
        {
            "._1.cls": b"junk",
            "1.cls": b"7",
            "._1.npy": b"junk",
            "1.npy": npy([True, False]),
            "s/._2.cls": b"x",
        },
    )
    columns = read("webdataset", path)
    assert columns["cls"].to_pylist() == [7]
    assert columns["npy"].to_numpy_ndarray().tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"1.jpg": b"a", "1.JPG": b"b"}, r"sample '1' has two \.jpg files"),
        ({"1.npy": npy([1.0]), "2.npy": npy([1.0, 2.0])}, "of one shape and type"),
        ({"1.npy": npy(["a"])}, "must be of numbers"),
        ({"1.npy": npy([1])[:-4]}, r"\.npy can't be read"),
        ({"1.cls": str(2**70).encode()}, r"\.cls can't be read"),
        ({"1.cls": b""}, r"\.cls can't be read"),
        ({"1.json": b"[" * 100_000}, r"\.json can't be read"),
        ({"1.txt": b"\xff"}, r"\.txt can't be read"),
        ({"1.cls": b"1", "2.txt": b"1"}, r"sample '2' \(row 1\) has no \.cls file"),
        ({}, "holds no sample"),
    ],
)
def test_tars_that_are_no_samples_are_sentences(
    tmp_path: Path, members: dict[str, bytes], words: str
) -> None:
    with pytest.raises(DataError, match=rf"a\.tar: .*{words}"):
        read("webdataset", tar(tmp_path / "a.tar", members))
