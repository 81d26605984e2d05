"""What ranks logged, as it lies in the run's storage."""

import math
import os

import pytest

from orchestrator.telemetry import spool as spooling
from orchestrator.telemetry.spool import FileSpool, ObjectSpool, Part, Spool, open_spool, sender_lock


class Objects:
    """An object store's rule in a folder: what is written is whole, and nothing can be added to it."""

    def __init__(self, folder):
        from orchestrator.storage import store_at

        self._store = store_at(str(folder))
        self.fails = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def write(self, path, content):
        if self.fails:
            self.fails -= 1
            raise OSError("503")
        self._store.write(path, content)


@pytest.fixture(params=["disk", "objects"])
def place(request, tmp_path, monkeypatch):
    """Makes writers on a disk, and as they work in an object store."""
    if request.param == "disk":
        return lambda part, logged=(): FileSpool(str(tmp_path), part, logged)
    monkeypatch.setattr(spooling, "store_at", lambda storage: Objects(storage))
    return lambda part, logged=(): ObjectSpool(str(tmp_path), part, logged)


def points(folder):
    spool = Spool(str(folder))
    return [
        (part.attempt, part.rank, record.content["step"], record.content["values"])
        for part in spool.parts()
        for record in spool.records(part)
    ]


def test_what_ranks_logged_is_read_in_the_order_of_attempts_and_ranks(place, tmp_path):
    writers = {part: place(part) for part in (Part(2, 0), Part(1, 8), Part(1, 0), Part(10, 0))}
    for step in (1, 2):
        for part, writer in writers.items():
            writer.log(step, {"a": part.attempt + 0.5})
        writers[Part(1, 0)].flush()
    for writer in writers.values():
        writer.close()
    assert points(tmp_path) == [
        (attempt, rank, step, {"a": attempt + 0.5})
        for attempt, rank in ((1, 0), (1, 8), (2, 0), (10, 0))
        for step in (1, 2)
    ]
    spool = Spool(str(tmp_path))
    for part in spool.parts():
        records = list(spool.records(part))
        assert list(spool.records(part, records[0].end)) == records[1:]
        assert list(spool.records(part, records[1].end)) == []
    assert spool.values_after({}) == 8
    first = next(spool.records(Part(1, 0)))
    assert spool.values_after({"attempt-1/rank-0": first.end}) == 7


def test_any_float_comes_back(place, tmp_path):
    writer = place(Part(1, 0))
    writer.log(1, {"nan": math.nan, "inf": math.inf, "less": -math.inf, "tiny": 5e-324, "third": 1 / 3})
    writer.close()
    ((_, _, _, values),) = points(tmp_path)
    assert math.isnan(values.pop("nan"))
    assert values == {"inf": math.inf, "less": -math.inf, "tiny": 5e-324, "third": 1 / 3}


def test_what_an_attempt_takes_up_again_is_not_there_twice(place, tmp_path):
    first = place(Part(1, 0))
    for step in (10, 20, 30):
        first.log(step, {"loss": step, "rate": 1.0})
    first.close()
    again = Spool(str(tmp_path)).logged_after(20)
    assert again == {("loss", 30), ("rate", 30)}
    second = place(Part(2, 0), again)
    second.log(21, {"loss": 21})  # the first step of an attempt is logged, whatever came before
    second.log(30, {"loss": 31, "rate": 2.0, "val": 3.0})
    second.log(40, {"loss": 40})
    second.close()
    assert points(tmp_path)[3:] == [
        (2, 0, 21, {"loss": 21}),
        (2, 0, 30, {"val": 3.0}),
        (2, 0, 40, {"loss": 40}),
    ]


def test_a_stale_process_adds_nothing_once_another_attempt_has_begun(place, tmp_path):
    stale, other = place(Part(1, 0)), place(Part(1, 8))
    stale.log(1, {"a": 1})
    stale.flush()
    Spool(str(tmp_path)).follow_earlier(2)
    stale.log(2, {"a": 2})
    stale.close()
    other.close()
    assert points(tmp_path) == [(1, 0, 1, {"a": 1})]


def test_what_is_measured_after_training_is_kept_through_further_attempts(place, tmp_path):
    spool = Spool(str(tmp_path))
    for attempt, evaluations in ((1, 2), (2, 1)):
        spool.follow_earlier(attempt)
        writer = place(Part(attempt, 0))
        writer.log(attempt, {"loss": attempt})
        writer.close()
        for number in range(evaluations):
            later = place(spool.next_evaluation())
            later.log(attempt, {f"evaluate/new/{number}": number})
            later.close()
    assert [(step, values) for _, _, step, values in points(tmp_path)] == [
        (1, {"loss": 1}),
        (1, {"evaluate/new/0": 0}),
        (1, {"evaluate/new/1": 1}),
        (2, {"loss": 2}),
        (2, {"evaluate/new/0": 0}),
    ]


def test_a_line_that_a_kill_or_a_full_disk_cut_is_passed_over(tmp_path, monkeypatch):
    writer = FileSpool(str(tmp_path), Part(1, 0))
    writer.log(1, {"a": 1})
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, content: write(file, content[:5]))
        writer.log(2, {"a": 2, "b": 2})
    writer.log(3, {"a": 3})
    assert writer.lost == 2
    path = tmp_path / "tracking" / "attempt-1" / "rank-0.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 4, "ti')
    assert [step for _, _, step, _ in points(tmp_path)] == [1, 3]


def test_a_bucket_that_fails_for_a_moment_loses_nothing(tmp_path, monkeypatch):
    bucket = Objects(tmp_path)
    monkeypatch.setattr(spooling, "store_at", lambda storage: bucket)
    writer = ObjectSpool(str(tmp_path), Part(1, 0))
    bucket.fails = 2
    for step in range(4):
        writer.log(step, {"a": step})
        writer.flush()
    writer.close()
    assert [step for _, _, step, _ in points(tmp_path)] == [0, 1, 2, 3]


def test_one_process_sends_at_a_time(tmp_path):
    with sender_lock(str(tmp_path), 0) as first, sender_lock(str(tmp_path), 0.2) as second:
        assert (first, second) == (True, False)
    with sender_lock(str(tmp_path), 0) as third:
        assert third


def test_a_uri_gets_pieces_and_a_path_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(spooling, "store_at", lambda storage: Objects(tmp_path))
    on_disk, in_bucket = open_spool(str(tmp_path), Part(1, 0)), open_spool("s3://bucket/run", Part(1, 1))
    assert (type(on_disk), type(in_bucket)) == (FileSpool, ObjectSpool)
    on_disk.close()
    in_bucket.close()
