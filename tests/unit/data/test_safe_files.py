"""Files that run code, end the process or hold damage: one sentence each, wherever they enter."""

from __future__ import annotations

import base64
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from data_jobs import job_of

from orchestrator.data.fit import training_batches
from orchestrator.data.prepare_data import prepare_job
from orchestrator.data.sources.formats import format_of, index_source
from orchestrator.errors import DataError
from orchestrator.spec.data import FileSource

HOSTILE = "ray.data.arrow_pickled_object"
LABELS = pa.array([i % 2 for i in range(20)])


class Scalar(pa.ExtensionScalar):
    """Stands for Ray's, which unpickles."""

    def as_py(self, **_: Any) -> Any:
        raise AssertionError("the code in the file ran")


class Pickled(pa.ExtensionType):
    """Stands for Ray's, under its name."""

    def __init__(self) -> None:
        super().__init__(pa.large_binary(), HOSTILE)

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: pa.DataType, serialized: bytes) -> Pickled:
        return cls()

    def __arrow_ext_scalar_class__(self) -> type:
        return Scalar


@pytest.fixture(params=["registered", "unknown"])
def registered(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the process that reads has the type registered, as one that imported Ray Data has."""
    rays_own = "ray.data" in sys.modules  # a test before this one may have imported it
    if rays_own:
        pa.unregister_extension_type(HOSTILE)
    if request.param == "registered":
        pa.register_extension_type(Pickled())
    yield request.param == "registered"
    if request.param == "registered":
        pa.unregister_extension_type(HOSTILE)
    if rays_own:
        from ray.data._internal.object_extensions.arrow import ArrowPythonObjectType

        pa.register_extension_type(ArrowPythonObjectType())


def hostile() -> pa.Array:
    return pa.ExtensionArray.from_storage(Pickled(), pa.array([b"x"] * 20, pa.large_binary()))


def write_arrow(path: Path, table: pa.Table, stream: bool = False) -> None:
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as sink, new(sink, table.schema) as writer:
        writer.write_table(table)


def prepared(kind: str, path: Path, **data: Any) -> list[dict[str, np.ndarray]]:
    job = job_of(
        {"train": {"kind": kind, "path": str(path)}, **data}, family="cnn" if "image" in data else "mlp"
    )
    made = prepare_job(job, "/", str(path.parent / "cache"))
    return list(training_batches(made.train, 0))


@pytest.mark.parametrize("kind", ["parquet", "images", "arrow", "stream"])
@pytest.mark.parametrize("asked_for", [True, False])
def test_an_extension_type_is_refused_in_any_file_of_any_format(
    tmp_path: Path, registered: bool, kind: str, asked_for: bool
) -> None:
    plain = pa.table(
        {"image": pa.array([b"x"] * 20, pa.large_binary()), "x": np.arange(20.0), "label": LABELS}
    )
    bad = plain.set_column(0, "image", hostile())
    folder = tmp_path / "rows"
    folder.mkdir()
    for name, table in (("a", plain), ("b", bad)):
        if kind in ("parquet", "images"):
            pq.write_table(table, folder / f"{name}.parquet")
        else:
            write_arrow(folder / f"{name}.arrow", table, kind == "stream")
    columns = {"image": "image"} if asked_for else {"features": "x"}
    kind = "arrow" if kind == "stream" else kind
    with pytest.raises(DataError, match=rf"b\.\w+: column 'image' is of the extension type '{HOSTILE}'"):
        prepared(kind, folder, columns={**columns, "label": "label"})


def test_an_extension_type_within_another_is_refused(tmp_path: Path, registered: bool) -> None:
    storage = hostile()
    nested = pa.StructArray.from_arrays([storage], fields=[pa.field("inner", storage.type)])
    pq.write_table(pa.table({"x": np.arange(20.0), "s": nested, "label": LABELS}), tmp_path / "a.parquet")
    with pytest.raises(
        DataError, match=r"column 's' (has an extension type within|is of the extension type)"
    ):
        prepared("parquet", tmp_path / "a.parquet", columns={"features": "x"})


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_file_that_is_swapped_for_a_hostile_one_is_refused_by_the_reader(
    tmp_path: Path, registered: bool, kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    write = pq.write_table if kind == "parquet" else lambda table, path: write_arrow(Path(path), table)
    write(pa.table({"x": pa.array([b"x"] * 20, pa.large_binary())}), path)
    index = index_source(FileSource(kind=kind, path=str(path)), "/", str(tmp_path / "c"))
    write(pa.table({"x": hostile()}), path)
    with pytest.raises(DataError, match="extension type"):
        format_of(kind).read(index, 0, ("x",))


def test_tensors_of_ray_and_arrow_keep_their_shape_whether_or_not_ray_is_there(tmp_path: Path) -> None:
    values = np.arange(120.0).reshape(20, 2, 3)
    lists = pa.array(list(values.reshape(20, 6)), pa.large_list(pa.float64()))
    said = {b"ARROW:extension:name": b"ray.data.arrow_tensor_v2", b"ARROW:extension:metadata": b"[2, 3]"}
    schema = pa.schema([pa.field("grid", lists.type, metadata=said), ("label", pa.int64())])
    pq.write_table(pa.Table.from_arrays([lists, LABELS], schema=schema), tmp_path / "ray.parquet")
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(values)
    pq.write_table(pa.table({"grid": tensor, "label": LABELS}), tmp_path / "arrow.parquet")
    for name in ("ray", "arrow"):
        index = index_source(FileSource(kind="parquet", path=str(tmp_path / f"{name}.parquet")), "/", "")
        table = format_of("parquet").read(index, 0, ("grid",))
        np.testing.assert_array_equal(table["grid"].combine_chunks().to_numpy_ndarray(), values)


class Keys(pe.KmsClient):
    """Keeps keys unwrapped."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return base64.b64encode(key_bytes)

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return base64.b64decode(wrapped_key)


@pytest.mark.parametrize("plain_footer", [True, False])
def test_an_encrypted_file_is_a_sentence_and_not_the_end_of_the_process(
    tmp_path: Path, plain_footer: bool
) -> None:
    factory = pe.CryptoFactory(lambda _: Keys())
    how = pe.EncryptionConfiguration(footer_key="f", column_keys={"k": ["x"]}, plaintext_footer=plain_footer)
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), how)
    table = pa.table({"x": np.arange(20.0), "label": LABELS})
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"a\.parquet: is (encrypted|damaged \(.*encrypt)"):
        prepared("parquet", tmp_path / "a.parquet", columns={"features": "x"})


def test_a_page_that_differs_from_its_checksum_is_damaged(tmp_path: Path) -> None:
    table = pa.table({"x": np.arange(2000.0), "label": np.arange(2000) % 2})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    place = bytes(content).index(np.float64(1500).tobytes())
    content[place + 2] ^= 1
    shutil.copy(path, tmp_path / "good.parquet")
    assert prepared("parquet", tmp_path / "good.parquet", columns={"features": "x"})
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.parquet: is damaged \(.*CRC checksum"):
        prepared("parquet", path, columns={"features": "x"})


def test_columns_that_nobody_asked_for_may_be_anything_but_unsafe(tmp_path: Path) -> None:
    odd = {
        "s": pa.array([{"x": i} for i in range(20)]),
        "m": pa.array([[("k", i)] for i in range(20)], pa.map_(pa.string(), pa.int64())),
        "l": pa.array([[[i]] * (i % 3) for i in range(20)]),
        "t": pa.array(["a"] * 20).dictionary_encode(),
    }
    table = pa.table({"x": np.arange(20.0), **odd, "label": LABELS})
    pq.write_table(table, tmp_path / "a.parquet")
    (batch,) = prepared("parquet", tmp_path / "a.parquet", columns={"features": "*"})
    np.testing.assert_array_equal(batch["features"][:, 0], np.arange(20.0))
    (batch,) = prepared("parquet", tmp_path / "a.parquet", columns={"features": ["s.x", "x"]})
    np.testing.assert_array_equal(batch["features"][:, 0], np.arange(20.0))


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_name_that_is_there_twice_is_an_error_only_where_it_is_asked_for(tmp_path: Path, kind: str) -> None:
    x, whole, texts = pa.array(np.arange(20.0)), pa.array(range(20)), pa.array(["a text"] * 20)
    table = pa.Table.from_arrays([whole, texts, x, LABELS], ["a", "a", "b", "label"])
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        write_arrow(path, table)
    (batch,) = prepared(kind, path, columns={"features": "b"})
    np.testing.assert_array_equal(batch["features"][:, 0], np.arange(20.0))
    with pytest.raises(DataError, match=r"a\.\w+ has several columns 'a'"):
        prepared(kind, path, columns={"features": "*"})


def test_times_beyond_pythons_years_are_no_obstacle_where_nobody_asks_for_them(tmp_path: Path) -> None:
    far = pa.array([2**60] * 20, pa.timestamp("s"))
    write_arrow(tmp_path / "a.arrow", pa.table({"x": np.arange(20.0), "at": far, "label": LABELS}))
    (batch,) = prepared("arrow", tmp_path / "a.arrow", columns={"features": "x"})
    np.testing.assert_array_equal(batch["features"][:, 0], np.arange(20.0))


def test_empty_batches_are_no_rows(tmp_path: Path) -> None:
    table = pa.table({"x": np.arange(20.0), "label": LABELS})
    with (
        pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        for part in (table.slice(0, 0), table.slice(0, 7), table.slice(0, 0), table.slice(7)):
            for batch in part.combine_chunks().to_batches() or [
                pa.record_batch({"x": pa.array([], pa.float64()), "label": pa.array([], pa.int64())})
            ]:
                writer.write_batch(batch)
    batches = prepared("arrow", tmp_path / "a.arrow", columns={"features": "x"})
    np.testing.assert_array_equal(np.concatenate([one["features"][:, 0] for one in batches]), np.arange(20.0))
