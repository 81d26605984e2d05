import threading
import time

import pytest
from faulty_disk import at_every_point
from object_buckets import bucket_at
from pydantic import ValidationError

from orchestrator.errors import RecordError
from orchestrator.own_code import OwnCode
from orchestrator.records import LONGEST_READ_BYTES, RunRecord, driver_log_name, first_fault, rank_log_name
from orchestrator.runs import Best, EndReason, RunState, RunStatus, new_run_id
from orchestrator.storage import is_uri


def status(state, **fields):
    return RunStatus(run_id="r", state=state, submitted_at=time.time(), **fields)


def test_a_final_state_is_never_overwritten(tmp_path):
    record = RunRecord(str(tmp_path))
    record.set_state(status(RunState.RUNNING))
    first = record.end(status(RunState.SUCCEEDED, reason=EndReason.COMPLETED))
    second = record.end(status(RunState.FAILED, reason=EndReason.DRIVER_LOST))
    record.set_state(status(RunState.RUNNING))
    assert first.state is second.state is record.status().state is RunState.SUCCEEDED


@pytest.fixture(params=["disk", "s3", "gs"])
def storage(request, tmp_path):
    if request.param == "disk":
        yield str(tmp_path)
    else:
        with bucket_at(request.param, "runs") as uri:
            yield f"{uri}/r"


def test_of_many_writers_one_ends_the_run(storage):
    record = RunRecord(storage)
    record.set_state(status(RunState.RUNNING))
    writers = 4 if is_uri(storage) else 16
    barrier, ends = threading.Barrier(writers), []

    def end(index):
        barrier.wait()
        ends.append(
            record.end(status(RunState.FAILED, reason=EndReason.USER_ERROR, message=str(index))).message
        )

    threads = [threading.Thread(target=end, args=(i,)) for i in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == writers and set(ends) == {record.status().message}


FIRST = status(RunState.PENDING)
LATER = FIRST.model_copy(update={"state": RunState.RUNNING, "step": 7})
END = LATER.model_copy(update={"state": RunState.SUCCEEDED, "reason": EndReason.COMPLETED})


@pytest.mark.parametrize("mode", ["error", "full", "kill", "power"])
@pytest.mark.parametrize(("verb", "new"), [(RunRecord.set_state, LATER), (RunRecord.end, END)])
def test_whatever_call_of_the_disk_fails_a_status_is_the_last_or_the_new_one(tmp_path, mode, verb, new):
    """... and one that a verb has written is not lost. The run's end can then be told, once."""
    for root, has_failed in at_every_point(
        tmp_path,
        mode,
        lambda store: RunRecord(store.root).set_state(FIRST),
        lambda store: verb(RunRecord(store.root, store), new),
    ):
        record = RunRecord(str(root))
        assert record.status() in ((FIRST, new) if has_failed else (new,))
        ended = record.end(END.model_copy(update={"message": "told again"}))
        assert ended == record.status() and ended.state is RunState.SUCCEEDED
        assert set(record.store.list("launches/1")) == {"state.json", "final.json"}


@pytest.mark.parametrize("mode", ["error", "full", "kill", "power"])
def test_a_stop_that_was_asked_for_is_found_whatever_fails_after_it(tmp_path, mode):
    for root, has_failed in at_every_point(
        tmp_path, mode, lambda store: None, lambda store: RunRecord(store.root, store).ask_to_stop(1)
    ):
        assert RunRecord(str(root)).stop_was_asked(1) or has_failed


def test_a_rank_s_logs_are_named_by_attempt(tmp_path):
    record = RunRecord(str(tmp_path))
    for attempt, rank in ((10, 1), (9, 1), (2, 0)):
        record.store.write(rank_log_name(attempt, rank), b"line\n")
    record.store.write("logs/other/rank-1.log", b"")
    assert record.rank_logs(1) == ["logs/attempt-9/rank-1.log", "logs/attempt-10/rank-1.log"]
    assert record.read_log("logs/attempt-9/rank-1.log", 2) == b"ne\n" and record.read_log("none") == b""


def test_a_long_log_is_read_in_parts(tmp_path):
    record = RunRecord(str(tmp_path))
    record.store.write("logs/attempt-1/rank-0.log", LONGEST_READ_BYTES * b"a" + b"end")
    assert record.read_log("logs/attempt-1/rank-0.log") == LONGEST_READ_BYTES * b"a"
    assert record.read_log("logs/attempt-1/rank-0.log", LONGEST_READ_BYTES) == b"end"
    assert record.read_log("logs/attempt-1/rank-0.log", 2 * LONGEST_READ_BYTES) == b""
    assert record.read_log("logs/attempt-1/rank-0.log/below") == b""


def test_the_last_step_is_remembered(tmp_path, caplog):
    record = RunRecord(str(tmp_path))
    assert record.reached() == 0 and caplog.messages == []
    record.set_reached(12)
    assert record.reached() == 12
    record.set_reached(7)
    assert record.reached() == 7
    assert (tmp_path / "control" / "reached").read_text() == "7"


def test_logs_have_their_places():
    assert rank_log_name(3, 1) == "logs/attempt-3/rank-1.log"
    assert driver_log_name(2) == "launches/2/driver.log"


def test_launches_are_counted_and_stops_remembered(tmp_path):
    record = RunRecord(str(tmp_path))
    assert record.newest_launch() == 0 and record.status() is None
    record.set_state(status(RunState.PENDING))
    record.set_state(status(RunState.PENDING, launch=2))
    assert record.newest_launch() == 2
    record.ask_to_stop(2)
    record.ask_to_stop(2)
    assert record.stop_was_asked(2) and not record.stop_was_asked(1)


def test_the_newest_launch_is_meant_unless_another_is_named(tmp_path):
    record = RunRecord(f"{tmp_path}/")
    assert record.storage == str(tmp_path)
    launches = [status(RunState.RUNNING, launch=launch, step=10 * launch) for launch in (1, 2, 3)]
    for launch in launches:
        record.set_state(launch)
    record.end(status(RunState.FAILED, launch=2, reason=EndReason.USER_ERROR))
    assert record.status() == record.status(3) == launches[2]
    assert record.status(1) == launches[0]
    assert record.status(2).state is RunState.FAILED
    assert record.status(4) is None


def test_records_lie_where_their_page_says(tmp_path):
    record = RunRecord(str(tmp_path))
    running = status(RunState.RUNNING, launch=2)
    record.set_state(running)
    record.ask_to_stop(2)
    ended = record.end(
        status(RunState.STOPPED, launch=2, reason=EndReason.STOPPED_BY_USER, message="as asked")
    )
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"launches/2/state.json", "launches/2/final.json", "control/stop-2"}
    assert RunStatus.model_validate_json((tmp_path / "launches/2/state.json").read_text()) == running
    assert RunStatus.model_validate_json((tmp_path / "launches/2/final.json").read_text()) == ended
    assert (tmp_path / "launches/2/state.json").read_text().startswith('{\n  "run_id": "r"')
    assert (tmp_path / "launches/2/final.json").read_text().startswith('{\n  "run_id": "r"')
    assert (tmp_path / "control/stop-2").read_bytes() == b"stop\n"


def test_an_end_keeps_what_was_told_before_it(tmp_path):
    record = RunRecord(str(tmp_path))
    record.set_state(status(RunState.RUNNING, step=7, attempt=2, urls={"mlflow": "http://mlflow"}))
    ended = record.end(status(RunState.FAILED, reason=EndReason.NAN_LOSS, message="nan"))
    assert (ended.state, ended.reason, ended.message) == (RunState.FAILED, EndReason.NAN_LOSS, "nan")
    assert (ended.step, ended.attempt, ended.urls) == (7, 2, {"mlflow": "http://mlflow"})
    assert record.status() == ended
    assert record.end(status(RunState.SUCCEEDED, reason=EndReason.COMPLETED)) == ended


def test_an_earlier_launch_ends_by_what_it_told_itself(tmp_path):
    record = RunRecord(f"{tmp_path}/runX")
    assert record.storage == f"{tmp_path}/runX"
    record.set_state(status(RunState.RUNNING, launch=1, step=3))
    record.set_state(status(RunState.RUNNING, launch=2, step=9))
    ended = record.end(status(RunState.FAILED, launch=1, reason=EndReason.DRIVER_LOST))
    assert (ended.launch, ended.step) == (1, 3)
    assert record.end(status(RunState.STOPPED, launch=1, reason=EndReason.STOPPED_BY_USER)) == ended
    assert record.status() == record.status(2)


def test_a_launch_that_told_nothing_may_end_and_a_state_is_no_end(tmp_path):
    record = RunRecord(str(tmp_path))
    ended = record.end(status(RunState.FAILED, reason=EndReason.DRIVER_LOST))
    assert record.status(1) == ended
    with pytest.raises(AssertionError):
        record.end(status(RunState.RUNNING))


def test_ids_are_safe_names_and_differ():
    ids = {new_run_id("a-job") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(i) <= 63 and i.replace("-", "").isalnum() and i.islower() for i in ids)
    assert all(i.startswith("a-job-") and len(i) == len("a-job-") + 8 for i in ids)
    assert not set("".join(i.removeprefix("a-job-") for i in ids)) & set("ilo01")  # look alike


@pytest.mark.parametrize("state", list(RunState))
def test_three_states_are_final(state):
    assert state.is_final == (state in ("succeeded", "failed", "stopped"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "EOF while parsing"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"[1, 2]", "should be an object"),
        (b"{}", "run_id: Field required"),
        (b'{"run_id": "r", "state": "flying"}', "state: Input should be"),
        (b"[" * 100_000, "Invalid JSON"),
    ],
)
@pytest.mark.parametrize("name", ["state.json", "final.json"])
def test_a_damaged_or_foreign_record_is_one_sentence(tmp_path, name, content, said):
    record = RunRecord(str(tmp_path))
    record.set_state(status(RunState.RUNNING))
    (tmp_path / "launches/1" / name).write_bytes(content)
    with pytest.raises(RecordError) as raised:
        record.status()
    assert str(raised.value).startswith(
        f"{tmp_path}/launches/1/{name} is damaged, or was not written by trainwright: "
    )
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_a_damaged_number_of_the_last_step_is_a_warning(tmp_path, caplog):
    record = RunRecord(str(tmp_path))
    record.store.write("control/reached", b"\x00\x01")
    assert record.reached() == 0
    assert caplog.messages == [f"{tmp_path}/control/reached is damaged: it should hold the number of a step"]


def test_a_file_of_the_run_is_read_as_what_it_is(tmp_path):
    record = RunRecord(str(tmp_path))
    assert record.section("best.json", Best) is None
    best = Best(step=3, metric="val/loss", value=0.5)
    record.store.write("best.json", best.model_dump_json().encode())
    record.store.write("status.json", status(RunState.RUNNING).model_dump_json().encode())
    record.store.write("empty.json", b"")
    assert record.section("best.json", Best) == best
    assert record.section("empty.json", Best) is None
    with pytest.raises(RecordError) as raised:
        record.section("status.json", Best)
    assert str(raised.value).startswith(
        f"{tmp_path}/status.json is damaged, or was not written by trainwright: "
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1]", "Input should be an object"),
        (b'{"run_id": "r", "state": "running", "best": {"step": "no"}}', "best.step: Input should be a valid integer"),
    ],
)  # fmt: skip
def test_the_first_fault_says_where_it_is_as_far_as_it_is_somewhere(content, said):
    with pytest.raises(ValidationError) as raised:
        RunStatus.model_validate_json(content)
    assert first_fault(raised.value).startswith(said)
    assert first_fault(RecursionError("maximum recursion depth exceeded")) == "nested without end"


def test_code_is_kept_under_its_digest(tmp_path):
    record = RunRecord(str(tmp_path))
    code = OwnCode({"model.py": "def make(): ..."})
    record.keep_code(code)
    record.keep_code(OwnCode({}))
    assert record.store.list("code") == [f"{code.digest}.json"]
    assert record.code(code.digest) == code and record.code("") == OwnCode({})
    with pytest.raises(FileNotFoundError):
        record.code("0" * 64)


def test_a_deletion_says_so_first_and_gives_up_the_lock_when_nothing_shows_a_run(tmp_path, monkeypatch):
    record = RunRecord(f"{tmp_path}/r")
    others = ("a.json", "checkpoints/step-1/manifest.json", "logs/attempt-1/rank-0.log", "z.json")
    for name in ("control/stop-1", "launches/1/state.json", "lock", "plan.json", *others):
        record.store.write(name, b"x")
    removed, remove = [], record.store.remove

    def noted(path):
        assert record.is_deleted and record.store.read("control/deleted") == b"deleted\n"
        removed.append(path)
        remove(path)

    monkeypatch.setattr(record.store, "remove", noted)
    record.delete()
    assert removed == ["a.json", "checkpoints", "launches", "logs", "z.json", "plan.json", "lock", ""]
    assert not (tmp_path / "r").exists() and not record.is_deleted
