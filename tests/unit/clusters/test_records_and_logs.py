import json

import pytest
from cluster_cases import plan
from programmable_server import wait_until

from orchestrator.clusters.kubernetes import run_log
from orchestrator.clusters.kubernetes.run_log import RunLog, parse_rank_line, rank_line
from orchestrator.clusters.shared import record_tool
from orchestrator.clusters.shared.log_lines import LineSplitter, rank_lines
from orchestrator.clusters.shared.progress import with_progress
from orchestrator.clusters.shared.run_records import remote_record, storage_record
from orchestrator.clusters.shared.stores import ANSWER_MARK, ExplainedStore
from orchestrator.errors import InfrastructureError
from orchestrator.records import RunRecord
from orchestrator.runs import Best, EndReason, RunState, RunStatus
from orchestrator.waited import name_of_pod

RUN = RunStatus(run_id="r", state=RunState.STARTING)


def remote(root):
    """Records through the tool's own main, without a cluster between."""
    return remote_record(
        str(root),
        lambda command: f"noise\n{ANSWER_MARK}{json.dumps(record_tool.answer(command[3:]))}\nmore noise",
    )


@pytest.fixture(params=["here", "on the cluster"])
def record(request, tmp_path):
    return storage_record(str(tmp_path)) if request.param == "here" else remote(tmp_path)


def test_records_are_the_same_from_here_and_through_the_cluster(record):
    assert record.status(1) is None and record.newest_launch() == 0
    assert record.store.list("launches/1") == []
    record.set_state(RUN)
    assert record.status(1) == RUN
    end = RUN.model_copy(update={"state": RunState.STOPPED, "reason": EndReason.STOPPED_BY_USER})
    assert record.end(end) == end
    assert record.end(end.model_copy(update={"message": "later"})) == end
    assert record.store.list("launches/1") == ["final.json", "state.json"]
    assert not record.stop_was_asked(1)
    record.ask_to_stop(1)
    record.ask_to_stop(1)
    assert record.stop_was_asked(1)
    assert record.reached() == 0
    record.set_reached(7)
    assert record.reached() == 7
    assert record.store.read("control/stop-1", 1, 3) == b"top"
    assert record.read_log("control/stop-1", 2) == b"op\n"
    record.store.remove("control/stop-1")
    assert not record.stop_was_asked(1)
    assert record.read_log("control/stop-1", 99) == record.read_log("control/none", 0) == b""


def test_a_command_that_says_nothing_is_an_error(tmp_path):
    broken = remote_record(str(tmp_path), lambda command: "Traceback\nOSError: disk full\n")
    with pytest.raises(InfrastructureError, match="can't list logs on the cluster: OSError: disk full"):
        broken.store.list("logs")


def test_storage_in_trouble_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InfrastructureError, match=r"^storage .*/file can't write a/b: "):
        ExplainedStore(str(tmp_path / "file")).write("a/b", b"")
    with pytest.raises(InfrastructureError, match=r"^storage ftp://host/x can't be opened: "):
        storage_record("ftp://host/x")


def test_a_rank_s_lines_over_attempts_while_they_grow(record, tmp_path):
    def write(attempt, text):
        file = tmp_path / "logs" / f"attempt-{attempt}" / "rank-2.log"
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a") as opened:
            opened.write(text)

    write(9, "nine\nhal")
    looks = iter([lambda: write(9, "f\n"), lambda: write(10, "ten\nlast"), lambda: None])
    ends = iter([False, False, False, True])
    lines = rank_lines(
        record, 2, follow=True, has_ended=lambda: next(ends), sleep=lambda seconds: next(looks)()
    )
    assert list(lines) == ["nine", "half", "ten", "last"]
    assert list(rank_lines(record, 2, follow=False, has_ended=lambda: False)) == [
        "nine",
        "half",
        "ten",
        "last",
    ]
    assert list(rank_lines(record, 3, follow=False, has_ended=lambda: False)) == []


def test_one_look_at_a_log_that_grows_faster_than_it_is_read_ends(tmp_path):
    class Busy(RunRecord):
        def rank_logs(self, rank):
            return ["logs/attempt-1/rank-0.log"]

        def read_log(self, name, offset=0):
            return b"one more\n"

    lines = rank_lines(Busy(str(tmp_path)), 0, follow=False, has_ended=lambda: False)
    assert list(lines) == ["one more"]


def test_a_long_log_is_read_in_parts_to_its_end(record, tmp_path, monkeypatch):
    from orchestrator import records
    from orchestrator.clusters.shared import log_lines, stores

    for module in (log_lines, records, stores):
        monkeypatch.setattr(module, "LONGEST_READ_BYTES", 7)
    file = tmp_path / "logs" / "attempt-1" / "rank-0.log"
    file.parent.mkdir(parents=True)
    file.write_text("one\ntwo\nthree and more\n")
    assert list(rank_lines(record, 0, follow=False, has_ended=lambda: False)) == [
        "one",
        "two",
        "three and more",
    ]


def test_lines_out_of_pieces():
    splitter = LineSplitter()
    assert [splitter.feed(piece) for piece in ("a\r\nb", "c\n", "d")] == [["a"], ["bc"], []]
    assert splitter.end() == ["d"]
    assert splitter.end() == []


def test_progress_from_events():
    lines = [
        "noise",
        '(worker pid=7) @trainwright {"event":"attempt","attempt":2,"launch":1,"start_step":0,"total_steps":50}',
        '@trainwright {"event":"metrics","step":10,"attempt":2,"values":{"loss":2.0}}',
        '@trainwright {"event":"metrics","step":20,"attempt":2,"values":{"loss":1.0,"accuracy":0.5}}',
        '@trainwright {"event":"a later version\'s"}',
        '@trainwright {"event":"metrics","step":"twenty"}',
        '@trainwright {"event":"waiting","message":"for nodes"}',
        '@trainwright {"event":"checkpoint","step":20,"best":{"step":10,"metric":"val/loss","value":0.5}}',
        '@trainwright {"event":"checkpoint","step":30}',
        '@trainwright {"event":"node_fault","node":"10.0.0.7","faults":1,"most":2,"is_left_out":false}',
        '@trainwright {"event":"node_fault","node":"10.0.0.8","faults":2,"most":2,"is_left_out":true}',
    ]
    status = with_progress(RUN, lines)
    assert status.best == Best(step=10, metric="val/loss", value=0.5)
    assert (status.state, status.step, status.attempt, status.total_steps) == (RunState.RUNNING, 20, 2, 50)
    assert status.metrics == {"loss": 1.0, "accuracy": 0.5}
    assert status.message == "for nodes"
    assert status.nodes_left_out == ("10.0.0.8",)
    ended = RUN.model_copy(
        update={"state": RunState.FAILED, "reason": EndReason.DRIVER_LOST, "message": "gone"}
    )
    assert with_progress(ended, lines).message == "gone"


def test_a_driver_s_own_last_words_go_before_what_its_exit_code_said():
    ended = RUN.model_copy(update={"state": RunState.FAILED, "reason": EndReason.DRIVER_LOST})
    end = (
        '@trainwright {"event":"end","time":5.0,"state":"failed","reason":"out_of_memory","message":"rank 1","metrics":{},'
        '"step":3}'
    )
    status = with_progress(ended, [end])
    assert (status.reason, status.message, status.ended_at) == (EndReason.OUT_OF_MEMORY, "rank 1", 5.0)
    assert status.step == 3  # not each step is logged
    assert with_progress(RUN, [end]).state is RunState.STARTING


def run_log_of(tmp_path):
    storage, ray_logs, run_folder = (tmp_path / name for name in ("storage", "ray", "run"))
    for folder in (storage, ray_logs, run_folder):
        folder.mkdir()
    return RunLog(plan(storage=storage), 1, ray_logs, run_folder), storage, ray_logs, run_folder


def test_the_log_beside_the_head_shows_driver_and_workers_and_keeps_a_copy(tmp_path):
    log, storage, ray_logs, _ = run_log_of(tmp_path)
    assert log.look() == []
    log.copy()
    driver = ray_logs / "job-driver-digits-abcdefgh.log"
    driver.write_text("one\ntw")
    worker = storage / "logs" / "attempt-1" / "rank-0.log"
    worker.parent.mkdir(parents=True)
    worker.write_text("hello\n")
    assert log.look() == ["one", "@rank 1 0 hello"]
    with driver.open("a") as file:
        file.write("o\n")
    assert log.look() == ["two"]
    log.copy()
    assert (storage / "launches" / "1" / "driver.log").read_text() == "one\ntwo\n"
    driver.write_text("new\n")  # a head that was started again
    assert log.look() == ["new"]
    log.copy()
    assert (storage / "launches" / "1" / "driver.log").read_text() == "one\ntwo\nnew\n"


def test_a_head_that_was_replaced_goes_on_behind_what_the_one_before_it_left(tmp_path):
    first, storage, ray_logs, run_folder = run_log_of(tmp_path)
    driver = ray_logs / "job-driver-digits-abcdefgh.log"
    driver.write_text("one\ntwo")
    assert (first.earlier(), first.look()) == ([], ["one"])
    first.copy()
    driver.unlink()  # another pod has a folder of its own
    second = RunLog(plan(storage=storage), 1, ray_logs, run_folder)
    assert second.earlier() == ["@earlier one", "@earlier two"]
    driver.write_text("three\n")
    assert second.look() == ["three"]
    second.copy()
    assert (storage / "launches" / "1" / "driver.log").read_text() == "one\ntwo\nthree\n"
    assert RunLog(plan(storage=storage), 2, ray_logs, run_folder).earlier() == []


def test_a_log_longer_than_one_answer_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.records.LONGEST_READ_BYTES", 5)
    record = storage_record(str(tmp_path))
    record.store.write("a.log", b"one\ntwo\nthree\n")
    assert record.whole_log("a.log") == b"one\ntwo\nthree\n"
    assert record.whole_log("none.log") == b""


def test_a_wish_to_stop_in_the_config_map_reaches_the_records(tmp_path):
    log, storage, _, run_folder = run_log_of(tmp_path)
    log.look()
    assert not storage_record(str(storage)).stop_was_asked(1)
    (run_folder / "stop-2").write_text("")
    log.look()
    assert not storage_record(str(storage)).stop_was_asked(1)
    (run_folder / "stop-1").write_text("")
    log.look()
    log.look()
    assert storage_record(str(storage)).stop_was_asked(1)


def test_marked_lines_come_back():
    assert parse_rank_line(rank_line(2, 13, "a  b: @rank 1 1 c")) == (2, 13, "a  b: @rank 1 1 c")
    assert parse_rank_line("@rank of a captain") is None


def test_the_container_shows_what_is_there_until_the_end_and_passes_on_that_the_head_leaves(tmp_path):
    import os
    import signal
    import subprocess
    import sys

    _, storage, ray_logs, run_folder = run_log_of(tmp_path)
    (run_folder / "plan.json").write_text(plan(storage=storage).model_dump_json())
    (ray_logs / "job-driver-digits-abcdefgh.log").write_text("one\n")
    command = [sys.executable, "-m", run_log.__name__, "--plan", run_folder / "plan.json", "--launch", "1"]
    process = subprocess.Popen(
        [*command, "--ray-logs", ray_logs],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout.readline() == "one\n"
    with (ray_logs / "job-driver-digits-abcdefgh.log").open("a") as file:
        file.write("two\n")
    process.send_signal(signal.SIGTERM)
    told = storage / "control" / "head-1"
    wait_until(told.exists, "the word for the driver")
    assert RunRecord(str(storage)).head_leaves(1, name_of_pod(run_folder / "plan.json"))
    with (ray_logs / "job-driver-digits-abcdefgh.log").open("a") as file:
        file.write('@trainwright {"event":"end","state":"stopped"}\n')
    assert process.communicate(timeout=60)[0].startswith("two\n")
    assert process.returncode == 0
    assert (storage / "launches" / "1" / "driver.log").read_text().startswith("one\ntwo\n@trainwright")


def test_an_image_of_another_version_is_told_at_once_and_nothing_is_run(tmp_path):
    import subprocess
    import sys

    newer = {**json.loads(plan(storage=tmp_path).model_dump_json()), "version": "9.1.0", "a_new_field": 1}
    (tmp_path / "plan.json").write_text(json.dumps(newer))
    command = [sys.executable, "-m", run_log.__name__, "--plan", tmp_path / "plan.json", "--launch", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "the image has trainwright 0.1.0, but the plan was made by 9.1.0; set image" in done.stderr
    assert run_log.version_problem(json.dumps({"version": "0.1.7"})) is None
