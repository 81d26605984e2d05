"""This machine as a cluster beyond the contract of all clusters: claims, lost drivers, what is told of them; no Ray."""

import contextlib
import errno
import json
import math
import multiprocessing
import os
import shutil
import signal
import stat
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from cluster_cases import plan
from cluster_places import RUN, Local

from orchestrator import cli, events
from orchestrator.clusters.local import status as status_of_output
from orchestrator.clusters.local.cluster import LocalCluster
from orchestrator.clusters.local.processes import DriverProcess
from orchestrator.clusters.local.status import pending
from orchestrator.errors import InfrastructureError, NotFoundError, RecordError, ResourcesError, SpecError
from orchestrator.gpus import visible_gpus
from orchestrator.models.sizes import Counts
from orchestrator.planning.make_plan import make_plan
from orchestrator.planning.plan import DataFacts, ResolvedJob, RunContext
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState
from orchestrator.spec.load import load_profile
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage import LocalStore, store_at
from orchestrator.storage.local import SystemCalls


@pytest.fixture
def local(tmp_path, monkeypatch):
    made = Local(tmp_path, monkeypatch)
    yield made
    made.close()


def cluster(folder):
    return LocalCluster(ClusterProfile(name="local", kind="local", storage=str(folder)))


OWN = "job-abcdefgh"


def request(folder, driver, run_id=OWN, **sections):
    """A request whose driver is a line of Python; it knows its storage as ``storage``."""
    job = ResolvedJob.model_validate(
        {
            "name": "job",
            "model": {"family": "mlp", "in_features": 3, "outputs": 2},
            "objective": {"kind": "classification"},
            "data": {"train": {"kind": "builtin", "name": "iris"}},
            "training": {"max_steps": 10},
            **sections,
        }
    )
    storage = f"{folder}/runs/{run_id}"
    context = RunContext(
        version="1",
        run_id=run_id,
        base_dir=str(folder),
        storage=storage,
        cache="/c",
        tracking_uri="",
    )
    plan = make_plan(job, DataFacts(train_samples=100), Counts(1, 1, 1, ()), context)
    made = cluster(folder).render(plan)
    command = [sys.executable, "-c", f"storage = {storage!r}\n{driver}"]
    return made.model_copy(update={"body": {**made.body, "command": command}})


ENDS = """
import time
from pathlib import Path
from orchestrator.records import RunRecord
from orchestrator.runs import *
open(storage + '/started', 'a').write('x')
print('a line')
RunRecord(storage).end(RunStatus(run_id='r', state=RunState.SUCCEEDED, reason=EndReason.COMPLETED, submitted_at=time.time()))
"""
WAITS = "import signal; print('waiting', flush=True); signal.pause()"


def wait_for_end(place, run, seconds=60):
    deadline = time.monotonic() + seconds
    while not (status := place.status(run)).state.is_final:
        assert time.monotonic() < deadline, status
        time.sleep(0.02)
    return status


def _submit(folder, barrier, made):
    barrier.wait()
    cluster(folder).submit(made)


def test_of_many_submits_of_one_id_one_starts_a_driver(tmp_path):
    made = request(tmp_path, ENDS)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(12)
    processes = [context.Process(target=_submit, args=(tmp_path, barrier, made)) for _ in range(12)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert wait_for_end(cluster(tmp_path), made.run_id).state is RunState.SUCCEEDED
    assert (tmp_path / "runs" / made.run_id / "started").read_text() == "x"
    assert list(cluster(tmp_path).logs(made.run_id)) == ["a line"]


def test_a_killed_driver_is_lost_and_stays_lost(tmp_path):
    place, made = cluster(tmp_path), request(tmp_path, WAITS)
    place.submit(made)
    process = json.loads((tmp_path / "runs" / made.run_id / "launches" / "1" / "process.json").read_text())
    os.kill(process["pid"], signal.SIGKILL)
    os.waitpid(process["pid"], 0)
    status = wait_for_end(place, made.run_id)
    assert (status.state, status.reason) == (RunState.FAILED, EndReason.DRIVER_LOST)
    record = RunRecord(made.plan.storage)
    late = status.ended(RunState.SUCCEEDED, EndReason.COMPLETED, "took all its steps", ended_at=time.time())
    assert record.end(late).reason is EndReason.DRIVER_LOST


def test_a_lost_driver_s_last_words_are_told(local):
    place = local.cluster()
    place.submit(place.render(local.plan()))
    local.runs()
    local.prints("Killed by the kernel")
    local.exits(137)
    message = place.status(RUN).message
    assert "its last words: Killed by the kernel" in message
    assert f"trainwright resume {RUN}" in message


def test_an_end_that_its_storage_did_not_take_is_read_from_the_output(local):
    place = local.cluster()
    place.submit(place.render(local.plan()))
    local.runs()
    end = {"event": "end", "time": 7.0, "state": "failed", "reason": "storage_failed", "message": "full"}
    local.prints(f"@trainwright {json.dumps({**end, 'metrics': {}, 'step': 3})}")
    local.prints('@trainwright {"event":"met')
    local.exits(4)
    status = place.status(RUN)
    assert (status.reason, status.message, status.ended_at) == (EndReason.STORAGE_FAILED, "full", 7.0)


def test_an_event_that_was_cut_off_is_nobody_s_last_word_and_a_full_disk_is_named(local, monkeypatch):
    place = local.cluster()
    place.submit(place.render(local.plan()))
    local.runs()
    local.prints("a word")
    local.prints('(Worker pid=1) @trainwright {"event":"met')
    local.exits(1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 0))
    message = place.status(RUN).message
    assert "its last words: a word; the disk of " in message and "is full; trainwright resume" in message


def test_runs_are_listed_on_a_disk_that_takes_no_more(local, monkeypatch, caplog):
    place = local.cluster()
    place.submit(place.render(local.plan()))
    local.runs()
    local.exits(137)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(SystemCalls, "write", full)
        [status] = place.list()
    assert status.reason is EndReason.DRIVER_LOST
    assert "final.json: [Errno 28] No space left on device: '" in caplog.text
    assert not RunRecord(local.plan().storage).status().state.is_final
    assert place.status(RUN).state is RunState.FAILED


def test_logs_are_followed_while_the_driver_writes_them_and_over_launches(local):
    place = local.cluster()
    place.submit(place.render(local.plan()))
    local.prints("one")
    lines = place.logs(RUN, follow=True)
    assert next(lines) == "one"
    local.prints("two")
    assert next(lines) == "two"
    local.ends(RunState.FAILED, EndReason.INFRASTRUCTURE, "the network failed")
    [end] = lines
    assert events.parse(end)["message"] == "the network failed"
    place.resume(RUN)
    local.prints("three", launch=2)
    assert list(place.logs(RUN)) == ["one", "two", end, "three"]


LEAVES = """
import os, signal, subprocess, sys
os.makedirs(sys.argv[-1] + '/r')
subprocess.Popen(['sleep', '600'], process_group=0)
print('left', flush=True)
signal.pause()
"""


def started(folder, run_id):
    """A run whose driver lives, with a child of its own group and the files of a Ray."""
    driver = LocalCluster(
        ClusterProfile(name="local", kind="local", storage=str(folder)), driver=("-c", LEAVES)
    )
    made = request(folder, "", run_id).plan
    driver.submit(driver.render(made))
    assert next(driver.logs(run_id, follow=True)) == "left"
    return json.loads((folder / "runs" / run_id / "launches/1/process.json").read_text())


def of_session(pid):
    """Processes that a driver has started, and itself."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split() if entry.name.isdigit() else []
            if fields and fields[3] == str(pid) and fields[0] != "Z":
                found.append(int(entry.name))
    return sorted(found)


@pytest.mark.parametrize(
    ("ended", "other_home", "other"),
    [
        ("mnist-2026-11-28", "a", "digits-2026-11-28"),  # the same last letters
        ("mnist-2026-11-28", "b", "mnist-2026-11-28"),  # the same id in another home
        ("mnist-2026-11-28", "a", "mnist-2026-11-28-1"),  # one is the beginning of the other
    ],
)
def test_what_is_cleared_of_one_run_is_nothing_of_another(tmp_path, ended, other_home, other):
    for home in "ab":
        (tmp_path / home).mkdir()
    first, second = started(tmp_path / "a", ended), started(tmp_path / other_home, other)
    assert len(of_session(first["pid"])) == len(of_session(second["pid"])) == 2
    living = of_session(second["pid"])
    os.kill(first["pid"], signal.SIGKILL)
    os.waitpid(first["pid"], 0)
    states = {run.run_id: run.state for run in cluster(tmp_path / "a").list()}
    assert states[ended] is RunState.FAILED
    assert of_session(first["pid"]) == [] and not Path(first["ray_dir"]).exists()
    assert of_session(second["pid"]) == living and Path(second["ray_dir"]).exists()
    place = cluster(tmp_path / other_home)
    assert place.stop(other, now=True).state is RunState.STOPPED
    assert of_session(second["pid"]) == [] and not Path(second["ray_dir"]).exists()


@pytest.mark.parametrize(
    "recorded", [{"started": 1, "ray_dir": "/tmp/tw-0/other"}, {"boot": "an earlier one"}]
)
def test_a_number_that_is_another_process_s_now_is_left_alone(tmp_path, recorded):
    known = started(tmp_path, "job-abcdefgh")
    file = tmp_path / "runs/job-abcdefgh/launches/1/process.json"
    file.write_text(json.dumps({**known, **recorded}))
    living = of_session(known["pid"])
    place = cluster(tmp_path)
    assert place.stop("job-abcdefgh", now=True).reason is EndReason.DRIVER_LOST
    assert living == of_session(known["pid"]) and known["pid"] in of_session(known["pid"])
    file.write_text(json.dumps(known))
    DriverProcess(store_at(str(tmp_path / "runs/job-abcdefgh")), "launches/1").kill()
    assert len(living) == 2 and of_session(known["pid"]) == []


def test_a_folder_that_another_user_made_is_refused_before_anything_starts(tmp_path, monkeypatch):
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setattr("orchestrator.private._LONGEST_RAY_FOLDER", 1000)
    mine = folder / f"tw-{os.getuid()}"
    for make, said in (
        (lambda: mine.symlink_to(tmp_path), "made by somebody else"),
        (lambda: mine.write_text(""), "made by somebody else"),
        (lambda: folder.chmod(0o777), "can be changed by other users"),
    ):
        make()
        with pytest.raises(InfrastructureError, match=said):
            cluster(tmp_path).submit(request(tmp_path, WAITS))
        mine.unlink(missing_ok=True)
    if os.getuid() == 0:
        folder.chmod(0o1777)
        mine.mkdir()
        os.chown(mine, 12345, 12345)
        with pytest.raises(InfrastructureError, match="made by somebody else"):
            cluster(tmp_path).submit(request(tmp_path, WAITS))
        mine.rmdir()
    folder.chmod(0o700)
    mine.mkdir(mode=0o755)
    place, made = cluster(tmp_path), request(tmp_path, WAITS)
    place.resume(made.run_id)
    assert stat.S_IMODE(mine.stat().st_mode) == 0o700
    place.stop(made.run_id, now=True)


def test_another_job_of_the_same_id_is_refused(tmp_path):
    place, made = cluster(tmp_path), request(tmp_path, WAITS)
    place.submit(made)
    before = (tmp_path / "runs" / made.run_id / "plan.json").read_bytes()
    with pytest.raises(SpecError, match="job-abcdefgh is another job"):
        place.submit(request(tmp_path, WAITS, training={"max_steps": 11}))
    elsewhere = made.plan.model_copy(update={"base_dir": "/elsewhere"})
    with pytest.raises(SpecError, match="from another folder"):
        place.submit(made.model_copy(update={"plan": elsewhere}))
    assert (tmp_path / "runs" / made.run_id / "plan.json").read_bytes() == before
    place.stop(made.run_id, now=True)


def test_a_plan_for_another_place_is_refused(tmp_path):
    other = tmp_path / "other"
    with pytest.raises(SpecError, match="make the plan for this cluster"):
        cluster(other).submit(request(tmp_path, WAITS))
    assert not other.exists()


def test_a_run_goes_on_where_it_is_found(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    made = request(old, ENDS)
    plan = made.plan.model_copy(
        update={
            "base_dir": str(tmp_path),
            "cache": f"{old}/cache",
            "tracking_uri": f"sqlite:///{old}/mlflow.db",
        }
    )
    body = {**made.body, "command": [sys.executable, "-c", "raise SystemExit(4)"]}
    cluster(old).submit(made.model_copy(update={"plan": plan, "body": body}))
    wait_for_end(cluster(old), made.run_id)
    old.rename(new)
    place = LocalCluster(
        ClusterProfile(name="local", kind="local", storage=str(new)),
        driver=("-c", "import sys; print(sys.argv)"),
    )
    place.resume(made.run_id)
    wait_for_end(place, made.run_id)
    assert not old.exists()
    [told] = place.logs(made.run_id)
    assert f"'{new}/runs/{made.run_id}/launches/2/plan.json'" in told
    moved = json.loads((new / "runs" / made.run_id / "launches/2/plan.json").read_text())
    assert moved["storage"] == f"{new}/runs/{made.run_id}"
    assert (moved["cache"], moved["tracking_uri"]) == (f"{new}/cache", f"sqlite:///{new}/mlflow.db")
    assert moved["base_dir"] == str(tmp_path)  # the job's own files are no part of the home


def test_unknown_runs_and_missing_gpus(tmp_path):
    for run in ("nothing", "../nothing", ""):
        with pytest.raises(NotFoundError):
            cluster(tmp_path).status(run)
    if not visible_gpus():
        with pytest.raises(ResourcesError, match="2 GPUs are asked for, but this machine has 0"):
            request(tmp_path, ENDS, scaling={"workers": 2, "gpus_per_worker": 1})


def test_a_damaged_run_is_one_line_of_warning_and_the_others_are_listed(tmp_path, caplog):
    here, runs = cluster(tmp_path), tmp_path / "runs"
    for run_id in ("good-abcdefgh", "hurt-abcdefgh"):
        here.submit(request(tmp_path, ENDS.replace("'r'", repr(run_id)), run_id))
        wait_for_end(here, run_id)
    for name in ("state.json", "final.json"):
        (runs / "hurt-abcdefgh/launches/1" / name).write_text("[]")
    (runs / "notes.txt").write_text("mine")
    (runs / "not-ours").mkdir()
    (runs / "not-ours/plan.json").write_text("\x00")
    (runs / "folder/plan.json").mkdir(parents=True)
    assert [status.run_id for status in here.list()] == ["good-abcdefgh"]
    hurt, not_ours = sorted(caplog.messages)
    assert hurt.startswith(f"left out: {runs}/hurt-abcdefgh/launches/1/final.json is damaged")
    assert not_ours.startswith(f"left out: {runs}/not-ours/plan.json is damaged")
    with pytest.raises(RecordError):
        here.status("hurt-abcdefgh")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pid": "x"}', "\udcff"])
def test_a_damaged_note_of_a_process_is_no_process(tmp_path, content):
    here = cluster(tmp_path)
    here.submit(request(tmp_path, ENDS))
    wait_for_end(here, OWN)
    for name in ("process.json", "claim.json"):
        (tmp_path / "runs" / OWN / "launches/1" / name).write_text(content, errors="surrogateescape")
    assert here.status(OWN).state is RunState.SUCCEEDED


def test_a_run_whose_metric_is_no_number_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRAINWRIGHT_HOME", str(tmp_path))
    driver = ENDS.replace("'r'", repr(OWN)).replace("reason=", "metrics={'val/loss': float('nan')}, reason=")
    here = LocalCluster(load_profile("local"))
    here.submit(request(tmp_path, driver))
    assert math.isnan(wait_for_end(here, OWN).metrics["val/loss"])
    for verb in (["status", OWN], ["list"], ["status", OWN, "--json"], ["list", "--json"]):
        monkeypatch.setattr(sys, "argv", ["trainwright", *verb])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().out
        assert not ended.value.code
        if "--json" in verb:
            found = json.loads(said, parse_constant=pytest.fail)
            assert (found if verb[0] == "status" else found[0])["metrics"] == {"val/loss": "NaN"}
        elif verb[0] == "status":
            assert ["val/loss", "nan"] in [line.split() for line in said.splitlines()]
        else:
            assert OWN in said


def test_of_ended_runs_a_list_reads_no_more_than_their_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(SystemCalls, "fsync", lambda self, descriptor: None)
    for number in range(500):
        made = plan(f"digits-{number}", "/", tmp_path / "runs" / f"digits-{number}")
        record = RunRecord(made.storage)
        record.store.write("plan.json", made.model_dump_json().encode())
        status = pending(made, 1, float(number))
        record.set_state(status)
        record.end(status.ended(RunState.SUCCEEDED, EndReason.COMPLETED, "took all", ended_at=number + 1.0))
        known = {"pid": 1, "started": 1, "boot": "", "ray_dir": "/nowhere"}
        record.store.write("launches/1/process.json", json.dumps(known).encode())
        Path(made.storage, "launches/1/driver.log").write_text("@trainwright {}\n" * 1000)
    read, opened = LocalStore.read, []
    monkeypatch.setattr(
        LocalStore, "read", lambda self, path, *part: opened.append(path) or read(self, path, *part)
    )
    monkeypatch.setattr(status_of_output, "_tail", None)  # outputs are long, and what they say is over
    assert len(cluster(tmp_path).list()) == 500
    assert Counter(opened) == {"launches/1/final.json": 500, "launches/1/process.json": 500}
