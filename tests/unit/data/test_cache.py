"""What is kept in the cache: made once, made anew by a raised version, and never served damaged."""

import json
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_jobs import job_of, plan_of
from golden_batches import CASES, batches_digest, case_data, sections_beside

from orchestrator import data
from orchestrator.data.cache import remembered, remembered_table
from orchestrator.data.preparations.pack import PackKind
from orchestrator.data.sources import pipeline
from orchestrator.errors import InfrastructureError
from orchestrator.spec.data import PipelineSource

DATA = "orchestrator.data."
VERSIONS = {
    "line-index": ("csv", import_module(DATA + "sources.formats.lines"), "_VERSION"),
    "text-index": ("pack", import_module(DATA + "sources.formats.text"), "_VERSION"),
    "tar-index": ("webdataset", import_module(DATA + "sources.formats.webdataset"), "_VERSION"),
    "image-list": ("images", import_module(DATA + "sources.formats.listed"), "_VERSION"),
    "audio-list": ("audio", import_module(DATA + "sources.formats.listed"), "_VERSION"),
    "content-hashes": ("parquet", import_module(DATA + "sources.contents"), "_VERSION"),
    "label-bounds": ("jsonl", import_module(DATA + "targets"), "_VERSION"),
    "evaluation-gaps": ("csv", import_module(DATA + "evaluation_gaps"), "_VERSION"),
    "builtin": ("builtin", import_module(DATA + "sources.builtin"), "_VERSION"),
    "preparation-fit": ("pack", PackKind, "version"),
    "preparation": ("pack", import_module(DATA + "preparations.rewrite"), "_VERSION"),
    "fitted-transforms": ("parquet", import_module(DATA + "fit"), "_VERSION"),
}
"""Kind of entry -> a data set that makes one, and what holds the version. ``pipeline`` has its own tests."""


def prepared_with(name: str, folder: Path) -> str:
    """What is prepared."""
    family, spec = (
        case_data(name, folder) if not folder.exists() else json.loads((folder / "spec").read_text())
    )
    (folder / "spec").write_text(json.dumps([family, spec]))
    job = job_of(spec, family=family, **sections_beside(family, spec))
    return data.prepare(plan_of(job, folder)).model_dump_json()


def entries(folder: Path, kind: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "cache" / kind).iterdir()}


@pytest.mark.parametrize("kind", VERSIONS)
def test_an_entry_is_made_once_and_anew_when_its_version_is_raised(kind, tmp_path, monkeypatch):
    name, holder, attribute = VERSIONS[kind]
    folder = tmp_path / "data"
    first = prepared_with(name, folder)
    before = entries(folder, kind)
    assert before
    assert prepared_with(name, folder) == first
    assert entries(folder, kind) == before, "nothing was written a second time"
    monkeypatch.setattr(holder, attribute, getattr(holder, attribute) + 1)
    prepared_with(name, folder)
    after = entries(folder, kind)
    assert len(after) == 2 * len(before) and before.items() <= after.items()


@pytest.mark.parametrize("kind", VERSIONS)
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_half_written_entry_is_made_again(kind, share, tmp_path):
    folder = tmp_path / "data"
    first = prepared_with(VERSIONS[kind][0], folder)
    contents = {path: path.read_bytes() for path in (folder / "cache" / kind).iterdir()}
    for path, content in contents.items():
        path.write_bytes(content[: int(len(content) * share)])
    assert prepared_with(VERSIONS[kind][0], folder) == first
    assert {path: path.read_bytes() for path in (folder / "cache" / kind).iterdir()} == contents


def test_no_kind_of_entry_is_left_out_here(tmp_path):
    for name in CASES:
        family, spec = case_data(name, tmp_path / name)
        batches_digest(family, spec, tmp_path)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == set(VERSIONS)


def test_a_value_comes_back_as_it_is_read(tmp_path):
    """So that the first run and the next one go on with the same."""
    for _ in range(2):
        assert remembered(str(tmp_path), "kind", 1, "a", lambda: {"pair": (1, 0.1)}) == {"pair": [1, 0.1]}


@pytest.mark.parametrize("damage", ["null", "[]", "{}", "", "\xff", '{"sha256": "", "value": 7}'])
def test_a_damaged_value_is_said_and_made_again(damage, tmp_path, caplog):
    values = iter((7, 8))

    def value() -> int:
        return remembered(str(tmp_path), "kind", 1, ["a"], lambda: next(values))

    assert value() == value() == 7
    (path,) = (tmp_path / "kind").iterdir()
    path.write_text(damage, encoding="latin-1")
    assert value() == value() == 8
    assert caplog.text.count("is damaged; it is made again") == 1


def test_another_value_in_an_entry_is_damage(tmp_path):
    remembered(str(tmp_path), "kind", 1, "a", lambda: {"rows": 100})
    (path,) = (tmp_path / "kind").iterdir()
    path.write_text(path.read_text().replace("100", "101"))
    assert remembered(str(tmp_path), "kind", 1, "a", lambda: {"rows": 100}) == {"rows": 100}


def test_kind_version_and_key_all_count(tmp_path):
    made = iter(range(9))
    names = [
        ("x", 1, ["a", 1]),
        ("y", 1, ["a", 1]),
        ("x", 2, ["a", 1]),
        ("x", 1, ["a", 2]),
        ("x", 1, ["b", 1]),
    ]
    for _ in range(2):
        assert [remembered(str(tmp_path), *name, lambda: next(made)) for name in names] == [0, 1, 2, 3, 4]


def test_nothing_is_kept_of_a_maker_that_fails(tmp_path):
    def fail(path: str) -> None:
        Path(path).write_text("half")
        raise OSError("the disk is full")

    with pytest.raises(InfrastructureError, match="full"):
        remembered_table(str(tmp_path), "kind", 1, "a", fail)
    assert not list((tmp_path / "kind").iterdir())


def test_two_makers_at_once_are_harmless(tmp_path):
    both_make, results = threading.Barrier(2, timeout=30), []

    def value() -> dict[str, int]:
        both_make.wait()
        return {"rows": 100}

    def table(path: str) -> None:
        both_make.wait()
        pq.write_table(pa.table({"a": range(100)}), path)

    def run() -> None:
        entry = remembered(str(tmp_path), "kind", 1, "a", value)
        results.append(
            (entry, pq.read_table(remembered_table(str(tmp_path), "kind", 1, "a", table)).num_rows)
        )

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [({"rows": 100}, 100)] * 2
    assert sorted(path.suffix for path in (tmp_path / "kind").iterdir()) == [".json", ".parquet"]


def test_a_pipeline_is_run_anew_when_what_it_depends_on_changes(tmp_path, monkeypatch):
    module = ModuleType("own_pipeline")
    module.rows = None
    monkeypatch.setitem(sys.modules, "own_pipeline", module)
    text = ["first"]
    monkeypatch.setattr(pipeline.inspect, "getsource", lambda module: text[0])
    runs = []

    def write(path: str, section: PipelineSource, function: object) -> None:
        runs.append(section.version)
        pq.write_table(pa.table({"id": [1]}), path)

    monkeypatch.setattr(pipeline, "_write", write)
    section = PipelineSource(kind="pipeline", function="own_pipeline:rows", id_column="id")

    def materialize(section: PipelineSource) -> str:
        return pipeline.materialize_pipeline(section, str(tmp_path))

    path = materialize(section)
    assert materialize(section) == path and len(runs) == 1
    Path(path).write_bytes(Path(path).read_bytes()[:-1])
    assert materialize(section) == path and len(runs) == 2
    others = [section.model_copy(update={"version": "2"}), section.model_copy(update={"arguments": {"n": 1}})]
    paths = {path, *map(materialize, others)}
    text[0] = "second"
    paths.add(materialize(section))
    monkeypatch.setattr(pipeline, "_VERSION", 2)
    paths.add(materialize(section))
    assert len(paths) == len(runs) - 1 == 5
