"""Whatever system call a command dies at, the next one mends what it left, or says it; and no driver begins twice."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from cluster_cases import plan
from killed_commands import is_killed, points

from orchestrator.clusters.local.cluster import LocalCluster
from orchestrator.clusters.local.processes import TOKEN
from orchestrator.errors import InfrastructureError, NotFoundError, SpecError
from orchestrator.runs import EndReason, RunState
from orchestrator.spec.profile import ClusterProfile
from orchestrator.storage.local import SystemCalls

RUN = "digits-abcdefgh"
_DRIVER = f"""
import os, signal, subprocess, sys
ray = sys.argv[-1]
os.makedirs(ray + "/r")
left = subprocess.Popen(["sleep", "600"], env={{"{TOKEN}": ray + "/token"}}, process_group=0)
with open("left", "a") as file:
    file.write(str(left.pid) + "\\n")
with open("begun", "a") as file:
    file.write(str(os.getpid()) + "\\n")
signal.pause()
"""
"""Says that it has begun, and leaves a process and a folder when it is killed."""


@pytest.fixture(autouse=True)
def _fast_disk_and_short_tmpdir(monkeypatch, tmp_path):
    monkeypatch.setattr(SystemCalls, "fsync", lambda self, descriptor: None)
    with tempfile.TemporaryDirectory(prefix="tw") as folder:
        monkeypatch.setattr("tempfile.tempdir", folder)
        yield
        assert [path.name for path in Path(folder).glob("*/*")] == []  # of Ray


class Home:
    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        profile = ClusterProfile(name="local", kind="local", storage=str(folder))
        self.cluster = LocalCluster(profile, driver=("-IS", "-c", _DRIVER))

    def submit(self):
        made = plan(RUN, self.folder, self.folder / "runs" / RUN)
        return self.cluster.submit(self.cluster.render(made))

    def lost(self):
        """A run whose driver was killed."""
        self.submit()
        pid = self.wait_for_drivers(1)[0]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return self

    def pids(self, name):
        with contextlib.suppress(FileNotFoundError):
            return [int(line) for line in (self.folder / name).read_text().split()]
        return []

    def wait_for_drivers(self, count):
        deadline = time.monotonic() + 20
        while len(begun := self.pids("begun")) < count:
            assert time.monotonic() < deadline, f"{begun} of {count} drivers have begun"
            time.sleep(0.005)
        assert len(begun) == count
        return begun

    def settled(self):
        """How it stands once its driver has begun, or has ended at the gate."""
        deadline = time.monotonic() + 20
        while not (status := self.cluster.status(RUN)).state.is_final and not self.pids("begun"):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return status

    def assert_one_driver_lives(self, launch):
        status = self.cluster.status(RUN)
        assert (status.launch, status.state) == (launch, RunState.PENDING)
        pid = self.wait_for_drivers(1)[-1]
        assert self.cluster._process(RUN, launch).pid == pid
        assert self.cluster.stop(RUN, now=True).state is RunState.STOPPED
        self.assert_nothing_is_left()

    def assert_nothing_is_left(self):
        assert not any(map(is_alive, self.pids("begun") + self.pids("left")))
        for run in self.folder.glob("runs/*/launches/*/process.json"):
            assert not self.cluster._process(RUN, int(run.parent.name)).has_left_something


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def of_a_killed_submit(tmp_path, name):
    for point in points():
        home = Home(tmp_path / f"{name}-{point}")
        killed = is_killed(home.submit, point)
        yield home
        if not killed:
            assert point > 25, point
            return


def test_a_killed_submit_is_mended_by_another(tmp_path):
    for home in of_a_killed_submit(tmp_path, "submit"):
        home.submit()
        status = home.settled()
        if (
            status.state is RunState.FAILED
        ):  # it died between writing down who its driver is and letting it begin
            assert not home.pids("begun") and "trainwright resume" in status.message
            home.cluster.resume(RUN)
        home.assert_one_driver_lives(status.launch + (status.state is RunState.FAILED))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 pages."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full_at_any_point_of_a_submit_is_one_sentence(small_disk):
    filler = small_disk / "filler"
    for free in range(1, 60):
        home = Home(small_disk / f"{free}")
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.truncate(filler, filler.stat().st_size - 4096 * (free - 1))
        is_refused = False
        try:
            home.submit()
        except InfrastructureError as error:
            is_refused = True
            assert str(home.folder) in str(error) and "No space left" in str(error), error
        filler.unlink()
        if is_refused:
            home.submit()
            status = home.settled()
            if status.state is RunState.FAILED:
                assert not home.pids("begun") and "trainwright resume" in status.message
                status = home.cluster.resume(RUN)
            home.assert_one_driver_lives(status.launch)
        else:
            home.cluster.stop(RUN, now=True)
            home.assert_nothing_is_left()
        shutil.rmtree(home.folder)
        if not is_refused:
            assert free > 3, free
            return


def test_a_killed_submit_is_told_by_status_and_mended_by_resume(tmp_path):
    for home in of_a_killed_submit(tmp_path, "status"):
        try:
            status = home.settled()
        except NotFoundError:
            assert home.cluster.list() == []
            home.submit()
            home.assert_one_driver_lives(1)
            continue
        assert [one.run_id for one in home.cluster.list()] == [RUN]
        if status.state is RunState.PENDING:
            home.assert_one_driver_lives(1)
            continue
        assert (status.state, status.reason) == (RunState.FAILED, EndReason.DRIVER_LOST)
        assert "trainwright resume" in status.message
        assert home.cluster.resume(RUN).launch == 2
        home.assert_one_driver_lives(2)


def test_a_killed_resume_is_mended_by_another(tmp_path):
    for point in points():
        home = Home(tmp_path / f"{point}").lost()
        (home.folder / "begun").unlink()
        killed = is_killed(lambda home=home: home.cluster.resume(RUN), point)
        status = home.settled()
        if status.state is RunState.FAILED:
            assert "trainwright resume" in status.message
            status = home.cluster.resume(RUN)
        home.assert_one_driver_lives(status.launch)
        if not killed:
            assert point > 15, point
            return


def test_a_killed_deletion_is_said_and_ended_by_another(tmp_path):
    for point in points():
        home = Home(tmp_path / f"{point}").lost()
        home.cluster.status(RUN)
        killed = is_killed(lambda home=home: home.cluster.delete(RUN), point)
        with contextlib.suppress(NotFoundError):
            status = home.cluster.status(RUN)
            assert [one.run_id for one in home.cluster.list()] == [RUN] and status.state.is_final
            if (home.folder / "runs" / RUN / "control/deleted").exists():
                assert f"trainwright delete {RUN}" in status.message
                for verb in (home.submit, lambda home=home: home.cluster.resume(RUN)):
                    with pytest.raises(SpecError, match=f"trainwright delete {RUN}"):
                        verb()
        if (home.folder / "runs" / RUN).exists():
            home.cluster.delete(RUN)
        assert list((home.folder / "runs").iterdir()) == []
        home.assert_nothing_is_left()
        if not killed:
            assert point > 15, point
            return


@pytest.mark.parametrize("verb", ["status", "stop"])
def test_a_killed_end_and_clean_up_are_mended_by_the_next_look(tmp_path, verb):
    for point in points():
        home = Home(tmp_path / f"{point}")
        if verb == "status":
            home.lost()
            killed = is_killed(lambda home=home: home.cluster.status(RUN), point)
        else:
            home.submit()
            home.wait_for_drivers(1)
            killed = is_killed(lambda home=home: home.cluster.stop(RUN, now=True), point)
        status = home.cluster.status(RUN)
        if not status.state.is_final:
            assert verb == "stop"
            status = home.cluster.stop(RUN, now=True)
        expected = EndReason.DRIVER_LOST if verb == "status" else EndReason.STOPPED_BY_USER
        assert status.reason is expected
        home.assert_nothing_is_left()
        if not killed:
            assert point > 10, point
            return
