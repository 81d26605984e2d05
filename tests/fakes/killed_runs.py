"""Whole runs that are killed again and again, and every point in MLflow held against what the ranks logged.

``python killed_runs.py FOLDER --kills 300 --seed 1`` trains the same job until so many kills have hit, prints what was
found as JSON, and fails where a point is lost, there twice, or not the one of the run that nothing happened to.

What is real: submit, status and resume of the local cluster, the driver, the worker with its loop, data, checkpoints and
records, MLflow's own client on an SQLite store, and processes that end by SIGKILL. In Ray's place stands a fork of the
driver; it is forked again, as Ray Train would start it, when it was killed. Processes are forks of this one because a
fresh one takes seconds to import torch and MLflow.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import gc
import json
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from sqlalchemy import Engine, event

from orchestrator import driver, events, loop, sdk, surroundings, worker
from orchestrator.clusters.local.processes import DriverProcess
from orchestrator.errors import InfrastructureError
from orchestrator.machine import boot, start_ticks
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState
from orchestrator.storage.local import SystemCalls
from orchestrator.telemetry import mlflow_run, spool, tracking

PHASES = ("submit", "train", "evaluate", "save", "send", "end", "resume")
STEPS, EVALUATE_EVERY, SAVE_EVERY = 16, 4, 3
_MOST_LAUNCHES = 12
_PATIENCE_SECONDS = 300
_DIES_WITH_PARENT = 1
_CHANGES = {"os.mkdir", "os.link", "os.rename", "os.remove", "os.rmdir", "open"}
JOB = {
    "name": "job",
    "model": {"family": "mlp", "size": "debug"},
    "data": {
        "reader": "worker",  # Ray Data would start a Ray of its own in each worker
        "train": {"kind": "builtin", "name": "iris"},
        "eval": {"kind": "split", "fraction": 0.2},
        "transforms": [{"kind": "normalize", "tensor": "features", "per": "element"}],
    },
    "training": {
        "max_steps": STEPS,
        "global_batch_size": 16,
        "log_every": 1,
        "evaluate_every": EVALUATE_EVERY,
    },
    "scaling": {"workers": 1},
    "checkpoint": {"every_steps": SAVE_EVERY, "keep": {"last": 2}},
    "recovery": {"max_failures": 100},
    "tracking": {"log_model": False},
}


# -- where a process is killed ---------------------------------------------------------------------------------


class Moments:
    """What a process does that can be its last: its changes of the disk, commits of the database, steps and batches."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._local = threading.local()
        self.phase = ""
        self.seen: Counter[str] = Counter()
        self._wanted: dict[str, Any] = {}
        self._is_worker = False

    def arm(self, *, is_worker: bool, phase: str) -> None:
        """In a new process: take up the next kill that is wanted and has not hit."""
        self.seen.clear()
        self._is_worker, self.phase = is_worker, phase
        self._local = threading.local()
        wanted = json.loads((self._folder / "wanted.json").read_text())
        hits = self._hits()
        self._wanted = wanted[hits] if hits < len(wanted) else {}

    def _hits(self) -> int:
        path = self._folder / "hits"
        return path.stat().st_size if path.exists() else 0

    @contextmanager
    def during(self, phase: str, *, here: bool = False) -> Iterator[None]:
        """What happens in here belongs to a phase: of all threads, or of this one only."""
        if here:
            self._local.phase = phase
            try:
                yield
            finally:
                del self._local.phase
            return
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    def happened(self) -> None:
        """Count a moment; be killed at the wanted one."""
        if threading.current_thread().name.startswith("checkpoint-"):
            phase = "save"
        else:
            phase = getattr(self._local, "phase", self.phase)
        self.seen[phase] += 1
        if phase == self._wanted.get("phase") and self.seen[phase] == self._wanted["at"]:
            descriptor = os.open(self._folder / "hits", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, b"x")
            if self._is_worker and self._wanted["driver_too"]:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


moments = Moments(Path())


def _count_moments() -> None:
    def hear(name: str, arguments: tuple[Any, ...]) -> None:
        is_write = name != "open" or (isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE)
        if name in _CHANGES and is_write:
            moments.happened()

    def write(self: SystemCalls, descriptor: int, content: memoryview) -> int:
        half = os.write(descriptor, content[: len(content) // 2])
        moments.happened()
        return half + os.write(descriptor, content[half:])

    def append(self: spool.FileSpool, line: bytes) -> None:
        half = len(line) // 2
        os.write(self._file, line[:half])
        moments.happened()
        os.write(self._file, line[half:])
        moments.happened()

    sys.addaudithook(hear)
    SystemCalls.write = write  # type: ignore[method-assign]
    SystemCalls.fsync = lambda self, descriptor: moments.happened()  # type: ignore[method-assign]
    spool.FileSpool._write = append  # type: ignore[method-assign]
    for name in ("commit", "before_cursor_execute"):
        event.listen(Engine, name, lambda *arguments: moments.happened())


def _mark_phases() -> None:
    def marked(owner: Any, name: str, phase: str, *, here: bool = False) -> None:
        inner = getattr(owner, name)

        def act(*arguments: Any, **named: Any) -> Any:
            with moments.during(phase, here=here):
                return inner(*arguments, **named)

        setattr(owner, name, act)

    marked(loop, "train", "train")
    marked(loop, "evaluate", "evaluate")
    marked(surroundings.RankSurroundings, "save", "save")
    marked(surroundings.RankSurroundings, "finish", "end")
    marked(driver.Driver, "_close_tracking", "end")
    for name in ("send", "send_file", "sent", "there"):
        marked(mlflow_run.MlflowRun, name, "send", here=True)
    opened = mlflow_run.MlflowRun.open.__func__  # type: ignore[attr-defined]

    def open_run(cls: Any, *arguments: Any, **named: Any) -> Any:
        with moments.during("send", here=True):
            return opened(cls, *arguments, **named)

    mlflow_run.MlflowRun.open = classmethod(open_run)  # type: ignore[assignment, method-assign]

    batches, seeds = surroundings.RankSurroundings.evaluation, loop._seed_generators

    def evaluation(self: surroundings.RankSurroundings) -> Any:
        for batch in batches(self):
            moments.happened()
            yield batch

    def seed(number: int) -> None:
        moments.happened()
        time.sleep(0.01)  # else all steps are over before the first point is sent
        seeds(number)

    surroundings.RankSurroundings.evaluation = evaluation  # type: ignore[method-assign]
    loop._seed_generators = seed


# -- the processes ---------------------------------------------------------------------------------------------


def _forked(act: Callable[[], int]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        code = act()
    except BaseException as error:
        print(f"{error!r}", file=sys.stderr, flush=True)
        code = 70
    sys.stdout.flush()
    os._exit(code)


def start_driver(self: DriverProcess, command: list[str], cwd: str, ray_dir: str) -> None:
    """In ``DriverProcess.start``'s place: the driver that the command names, as a fork."""
    self.log.touch()

    def drive() -> int:
        os.setsid()
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        arguments = command[command.index("--plan") :]
        launch = int(arguments[arguments.index("--launch") + 1])
        os.read(gate, 1)
        os.closerange(3, 256)  # the lock that whoever launches it holds
        moments.arm(is_worker=False, phase="submit" if launch == 1 else "resume")
        return driver.main(arguments)

    gate, told = os.pipe()
    pid = _forked(drive)
    known = {"pid": pid, "started": start_ticks(pid), "boot": boot(), "ray_dir": ray_dir}
    self._store.write(self._name, json.dumps(known).encode())
    os.write(told, b"g")
    os.close(told)
    os.close(gate)


class ForkedWorkers:
    """In ``RaySession``'s place: one worker, a fork of the driver, started again while it is killed."""

    attempts: ClassVar[int] = 0

    def __init__(self, plan: Plan, private_dir: str | None) -> None:
        self._plan = plan

    def __enter__(self) -> ForkedWorkers:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def wait_for_resources(self, stop_asked: Callable[[], bool]) -> None:
        pass

    def train(self, prepared: str, *, launch: int, started_at: float, work: Any) -> dict[str, Any]:
        config = {
            "plan": self._plan.model_dump_json(),
            "prepared": prepared,
            "launch": launch,
            "started_at": started_at,
        }
        result = Path(self._plan.storage) / "worker-result.json"
        is_first = launch == 1
        while True:

            def work(is_first: bool = is_first) -> int:
                ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                moments.arm(is_worker=True, phase="submit" if is_first else "resume")
                outcome = worker.run(config)
                result.write_text(json.dumps(outcome))
                _note_moments()
                return 0

            code = os.waitstatus_to_exitcode(os.waitpid(_forked(work), 0)[1])
            if code == 0:
                outcome: dict[str, Any] = json.loads(result.read_text())
                return outcome
            if code != -signal.SIGKILL:
                raise InfrastructureError(f"a worker ended with {code}")
            is_first = False


def _note_moments() -> None:
    (moments._folder / f"moments-{time.time_ns()}.json").write_text(json.dumps(moments.seen))


# -- a run and what it must come to ------------------------------------------------------------------------------


def train_through(folder: Path, wanted: list[dict[str, Any]]) -> tuple[Plan, int]:
    """Submit a run and resume it for as long as it is killed; the plan, and how many kills hit."""
    global moments
    control = folder / "control" / f"{time.time_ns()}"
    control.mkdir(parents=True)
    (control / "wanted.json").write_text(json.dumps(wanted))
    moments = Moments(control)
    plan = sdk.make_plan(folder / "job.yaml")
    state = _by_command(lambda: sdk.submit(plan), plan, 1)
    for launch in range(2, _MOST_LAUNCHES):
        if state == RunState.SUCCEEDED:
            return plan, moments._hits()
        state = _by_command(lambda: sdk.attach(plan.run_id).resume(), plan, launch)
    raise AssertionError(f"{plan.run_id} does not come to its end")


def _by_command(act: Callable[[], Any], plan: Plan, launch: int) -> str:
    """Launch by a command, wait until the driver is gone, look by another command: how the run stands then."""
    assert os.waitpid(_forked(lambda: 0 if act() else 1), 0)[1] == 0, f"{plan.run_id} was not launched"
    known = json.loads(Path(plan.storage, f"launches/{launch}/process.json").read_text())
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while start_ticks(known["pid"]) == known["started"]:
        assert time.monotonic() < deadline, _where_it_hangs(plan, known["pid"], launch)
        time.sleep(0.02)

    def look() -> int:
        status = sdk.attach(plan.run_id).status()
        assert status.state is RunState.SUCCEEDED or status.reason is EndReason.DRIVER_LOST, status
        return 0

    assert os.waitpid(_forked(look), 0)[1] == 0, f"{plan.run_id} does not stand as it should"
    status = RunRecord(plan.storage).status()
    assert status is not None
    return status.state


def _where_it_hangs(plan: Plan, driver_pid: int, launch: int) -> str:
    """The end of the driver's log with the stacks of its processes, which are ended."""
    os.killpg(driver_pid, signal.SIGUSR1)  # see main: they write down what each thread does
    time.sleep(1)
    os.killpg(driver_pid, signal.SIGKILL)
    log = Path(plan.storage, f"launches/{launch}/driver.log").read_text(errors="replace")
    return f"{plan.run_id} hangs\n{log[-8000:]}"


def deterministic(name: str) -> bool:
    """Whether two runs must agree on a metric: all but what is measured in time."""
    return not name.startswith("system/")


def in_mlflow(plan: Plan) -> Counter[tuple[str, int, float]]:
    """Every point that the database has, as often as it has it."""
    path = plan.tracking_uri.removeprefix("sqlite:///")
    with sqlite3.connect(path) as database:
        rows = database.execute(
            "select m.key, m.step, m.value from metrics m join tags t on t.run_uuid = m.run_uuid"
            " where t.key = 'trainwright.run_id' and t.value = ?",
            (plan.run_id,),
        ).fetchall()
        runs = database.execute(
            "select r.status from runs r join tags t on t.run_uuid = r.run_uuid"
            " where t.key = 'trainwright.run_id' and t.value = ? and r.lifecycle_stage = 'active'",
            (plan.run_id,),
        ).fetchall()
    database.close()
    assert runs == [("FINISHED",)], (plan.run_id, runs)
    ours = "system/ledger/"  # told at each end, and no rank's
    return Counter((name, step, value) for name, step, value in rows if not name.startswith(ours))


def in_rank_logs(plan: Plan) -> dict[tuple[str, int], set[float]]:
    """Every point of the ranks' own logs, with the values it was logged with: more than one where steps were redone."""
    found: dict[tuple[str, int], set[float]] = {}
    for path in Path(plan.storage).glob("logs/attempt-*/rank-*.log"):
        for line in path.read_text(errors="replace").splitlines():
            said = events.parse(line)
            if said and said["event"] == "metrics":
                for name, value in said["values"].items():
                    found.setdefault((name, said["step"]), set()).add(value)
    return found


def faults(plan: Plan, undisturbed: Plan) -> dict[str, list[Any]]:
    """What is wrong with a run, beside one that nothing happened to."""
    points, logged = in_mlflow(plan), in_rank_logs(plan)
    keys = Counter((name, step) for name, step, _ in points.elements())
    wanted = {key: value for *key, value in in_mlflow(undisturbed) for key in [tuple(key)]}
    own_end, other_end = (RunRecord(p.storage).status() for p in (plan, undisturbed))
    assert own_end is not None and other_end is not None
    same = {name: value for name, value in own_end.metrics.items() if deterministic(name)}
    other = {name: value for name, value in other_end.metrics.items() if deterministic(name)}
    return {
        "lost": sorted((logged.keys() | wanted.keys()) - keys.keys()),
        "twice": sorted(key for key, count in keys.items() if count > 1),
        "not logged": sorted(keys.keys() - logged.keys()),
        "other value": sorted(
            point
            for point in points
            if deterministic(point[0])
            and (point[2] != wanted[point[:2]] or float(f"{point[2]:.6g}") not in logged[point[:2]])
        ),
        "end": [] if same == other else [same, other],
    }


def main() -> int:
    """Run the suite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    os.environ["TRAINWRIGHT_HOME"] = str(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    torch.set_num_threads(1)
    faulthandler.register(signal.SIGUSR1)  # forks have it too
    (folder / "job.yaml").write_text(json.dumps(JOB))
    tracking._SEND_SECONDS = 0.2
    driver.RaySession = ForkedWorkers  # type: ignore[assignment, misc]
    DriverProcess.start = start_driver  # type: ignore[assignment, method-assign]
    _count_moments()
    _mark_phases()
    gc.freeze()
    choose = random.Random(options.seed)
    train_through(folder, [])  # makes the database's tables, which is thousands of moments of no other run
    undisturbed, _ = train_through(folder, [])
    counted = [json.loads(path.read_text()) for path in moments._folder.glob("moments-*.json")]
    most = {phase: max((seen.get(phase, 0) for seen in counted), default=0) for phase in PHASES}
    most["resume"] = most["submit"]
    hits: Counter[str] = Counter()
    points = runs = 0
    found: dict[str, list[Any]] = {}
    began = time.monotonic()
    while hits.total() < options.kills:
        rare = sorted(PHASES, key=lambda phase: (hits[phase], choose.random()))
        wanted = []
        for phase in rare[: choose.randint(2, 5)]:
            if phase == "resume":  # comes after another one
                wanted.append({"phase": "train", "at": choose.randint(1, max(1, most["train"] // 2))})
            wanted.append({"phase": phase, "at": choose.randint(1, max(1, most[phase]))})
        for kill in wanted:
            kill["driver_too"] = choose.random() < 0.4
        plan, hit = train_through(folder, wanted)
        hits.update(kill["phase"] for kill in wanted[:hit])
        runs += 1
        points += in_mlflow(plan).total()
        for kind, what in faults(plan, undisturbed).items():
            if what:
                found.setdefault(kind, []).append([plan.run_id, wanted, what[:5]])
        so_far = f"{hits.total()} kills {dict(hits)}, {runs} runs, {points} points, faults {found}"
        print(so_far, file=sys.stderr, flush=True)
    summary = {
        "kills": hits.total(),
        "by phase": dict(hits),
        "moments": most,
        "runs": runs,
        "points": points,
        "faults": found,
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(summary))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
