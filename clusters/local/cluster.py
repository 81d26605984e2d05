"""This machine: a detached driver process with a Ray instance of its own for each run.

A run lives in ``<home>/runs/<run id>/``, laid out as ``orchestrator.records`` says. The driver outlives the command
that started it. What a killed driver leaves behind is cleared by the next command that looks at the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator import events
from orchestrator.clusters.base import Request, Revise
from orchestrator.clusters.shared.progress import with_progress
from orchestrator.errors import InfrastructureError, NotFoundError, ResourcesError, SpecError
from orchestrator.planning.plan import Plan
from orchestrator.records import RunRecord
from orchestrator.runs import EndReason, RunState, RunStatus
from orchestrator.spec.load import home
from orchestrator.spec.profile import ClusterProfile

_FOLLOW_SECONDS = 0.1


class LocalCluster:
    """Runs on this machine."""

    def __init__(self, profile: ClusterProfile) -> None:
        self.profile = profile
        self._runs = Path(profile.storage) / "runs" if profile.storage else home() / "runs"

    def render(self, plan: Plan) -> Request:
        """The driver's command. Raises ResourcesError where this machine has no such GPUs."""
        return Request(kind="process", run_id=plan.run_id, body=self._process(plan, 1), plan=plan)

    def _process(self, plan: Plan, launch: int) -> dict[str, Any]:
        """Command and folder of a launch's driver. Raises ResourcesError."""
        gpus = plan.world_size * plan.job.scaling.gpus_per_worker
        if gpus and (have := _gpus()) < gpus:
            raise ResourcesError(f"{gpus} GPUs are asked for, but this machine has {have}")
        file = Path(plan.storage) / _plan_name(launch)
        command = [sys.executable, "-m", "orchestrator.driver", "--plan", str(file), "--launch", str(launch)]
        return {
            "command": [*command, "--start-ray", str(_ray_dir(plan.run_id, launch))],
            "cwd": plan.base_dir,
        }

    def submit(self, request: Request) -> RunStatus:
        """Start the driver, unless this run id was submitted before."""
        plan, record = request.plan, RunRecord(request.plan.storage)
        try:
            record.create("plan.json", plan.model_dump_json(indent=2).encode())
        except OSError as error:
            raise InfrastructureError(f"{plan.storage}: can't be written: {error.strerror}") from None
        self._launch(plan, 1, request.body["command"], request.body["cwd"])
        return self.status(request.run_id)

    def resume(self, run_id: str, revise: Revise | None = None) -> RunStatus:
        """Launch an ended run again."""
        status = self.status(run_id)
        if not status.state.is_final:
            raise SpecError(f"{run_id} has not ended: it is {status.state}")
        if status.state is RunState.SUCCEEDED:
            raise SpecError(
                f"{run_id} has taken all its {status.total_steps} steps; there is nothing left to resume"
            )
        plan, launch = self._plan(run_id, status.launch), status.launch + 1
        if revise is not None:
            plan = revise(plan)
        body = self._process(plan, launch)
        self._launch(plan, launch, body["command"], body["cwd"])
        return self.status(run_id)

    def status(self, run_id: str) -> RunStatus:
        """How it stands, and how far it has come."""
        return self._with_progress(self._state(run_id).on(self.profile.name))

    def _state(self, run_id: str) -> RunStatus:
        """How it stands; a driver that is gone without having written an end was lost."""
        record = self._record(run_id)
        status = record.status()
        if status is None:
            raise NotFoundError(f"run {run_id} was never launched")
        if not status.state.is_final and not _is_alive(folder := self._launch_dir(run_id, status.launch)):
            status = record.status(status.launch) or status  # it may have ended between the two looks
            if not status.state.is_final:
                status = record.end(_lost(status, folder, record.stop_was_asked(status.launch)))
        if status.state.is_final:
            _clear(self._launch_dir(run_id, status.launch), _ray_dir(run_id, status.launch))
        elif record.stop_was_asked(status.launch):
            status = status.at(RunState.STOPPING)
        return status

    def list(self) -> list[RunStatus]:
        """All runs of the home, newest first."""
        found = []
        for folder in self._runs.glob("*/plan.json"):
            with contextlib.suppress(NotFoundError):
                found.append(self.status(folder.parent.name))
        return sorted(found, key=lambda status: -status.submitted_at)

    def logs(self, run_id: str, *, follow: bool = False, rank: int | None = None) -> Iterator[str]:
        """Lines of the driver, or of one rank, over all launches and attempts."""
        self._record(run_id)
        root = self._runs / run_id
        seen: dict[Path, int] = {}
        while True:
            ended = self._state(run_id).state.is_final
            if rank is None:
                files = sorted(root.glob("launches/*/driver.log"), key=_number)
            else:
                files = sorted(root.glob(f"logs/attempt-*/rank-{rank}.log"), key=_number)
            for file in files:
                text, seen[file] = _whole_lines(file, seen.get(file, 0), at_end=ended)
                yield from text
            if ended or not follow:
                if rank is not None and not files:
                    raise NotFoundError(f"{run_id} has no log of rank {rank}")
                return
            time.sleep(_FOLLOW_SECONDS)

    def stop(self, run_id: str, *, now: bool = False) -> RunStatus:
        """Ask for a graceful stop, or end the driver and all it started."""
        status = self.status(run_id)
        if status.state.is_final:
            return status
        self._record(run_id).ask_to_stop(status.launch)
        if now:
            process = _process(self._launch_dir(run_id, status.launch))
            if process:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process, signal.SIGKILL)
                _wait_until_gone(self._launch_dir(run_id, status.launch))
        elif status.state is RunState.STARTING and self._is_before_workers(run_id, status.launch):
            process = _process(self._launch_dir(run_id, status.launch))
            if process:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)
        return self.status(run_id)

    def ping(self) -> str:
        """This machine's cores and GPUs."""
        return f"this machine: {os.cpu_count()} cores, {_gpus()} GPUs"

    # -- files -----------------------------------------------------------------------------------------------

    def _record(self, run_id: str) -> RunRecord:
        if not run_id or "/" in run_id or not (self._runs / run_id / "plan.json").is_file():
            raise NotFoundError(
                f"no run {run_id!r} on cluster {self.profile.name}; trainwright list shows those there are"
            )
        return RunRecord(str(self._runs / run_id))

    def _plan(self, run_id: str, launch: int) -> Plan:
        """The launch's plan, or the one before it where a launch died before it wrote its own."""
        files = (self._runs / run_id / _plan_name(number) for number in range(launch, 0, -1))
        newest = next(file for file in files if file.is_file())
        return Plan.model_validate_json(newest.read_text(encoding="utf-8"))

    def _launch_dir(self, run_id: str, launch: int) -> Path:
        return self._runs / run_id / "launches" / str(launch)

    def _launch(self, plan: Plan, launch: int, command: Sequence[str], cwd: str) -> None:
        folder = self._launch_dir(plan.run_id, launch)
        record = RunRecord(plan.storage)
        pending = RunStatus(
            run_id=plan.run_id,
            state=RunState.PENDING,
            name=plan.job.name,
            launch=launch,
            submitted_at=time.time(),
            total_steps=plan.total_steps,
        )
        folder.mkdir(parents=True, exist_ok=True)
        # whoever creates the claim starts the driver; a second submit finds it and starts nothing
        if not record.create(f"launches/{launch}/claim.json", json.dumps({"pid": os.getpid()}).encode()):
            _wait_for_start(folder)
            return
        if launch > 1:
            record.write(_plan_name(launch), plan.model_dump_json(indent=2).encode())
        record.set_state(pending)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        with (folder / "driver.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        record.write(
            f"launches/{launch}/process.json",
            json.dumps({"pid": process.pid, "started": _start_ticks(process.pid)}).encode(),
        )

    def _is_before_workers(self, run_id: str, launch: int) -> bool:
        log = self._launch_dir(run_id, launch) / "driver.log"
        return not any(event["event"] == "attempt" for event in _events(log))

    def _with_progress(self, status: RunStatus) -> RunStatus:
        """With what the log's events tell, and where the checkpoints are."""
        log = self._launch_dir(status.run_id, status.launch) / "driver.log"
        status = with_progress(status, _tail(log, 512_000))
        return status.with_urls({"checkpoints": str(self._runs / status.run_id / "checkpoints")})


def _plan_name(launch: int) -> str:
    """Where a launch's plan is in the run's folder; the first one's marks the folder as a run."""
    return "plan.json" if launch == 1 else f"launches/{launch}/plan.json"


def _ray_dir(run_id: str, launch: int) -> Path:
    """Short, because Ray puts Unix sockets below it, whose paths may have 107 characters."""
    return Path(tempfile.gettempdir()) / f"tw-{os.getuid()}" / f"{run_id[-8:]}-{launch}"


def _gpus() -> int:
    """NVIDIA GPUs of this machine."""
    return (
        len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
        if Path("/proc/driver/nvidia/gpus").is_dir()
        else 0
    )


def _start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: tells a process from a later one with its number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] == "Z" else int(fields[19])


def _process(folder: Path) -> int | None:
    """The launch's driver, if it lives."""
    try:
        known = json.loads((folder / "process.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None
    return (
        known["pid"]
        if known["started"] is not None and _start_ticks(known["pid"]) == known["started"]
        else None
    )


def _is_alive(folder: Path) -> bool:
    if (folder / "process.json").exists():
        return _process(folder) is not None
    # claimed, and the claimer has not started it yet: alive while the claimer lives
    try:
        claimer = json.loads((folder / "claim.json").read_text())["pid"]
    except (OSError, json.JSONDecodeError, KeyError):
        return False
    return _start_ticks(claimer) is not None


def _wait_for_start(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while not (folder / "state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def _wait_until_gone(folder: Path) -> None:
    deadline = time.monotonic() + 10
    while _process(folder) is not None and time.monotonic() < deadline:
        time.sleep(0.02)


def _lost(status: RunStatus, folder: Path, stop_was_asked: bool) -> RunStatus:
    if stop_was_asked:
        message = "stopped at once; the newest checkpoint is what it can go on from"
        return status.ended(RunState.STOPPED, EndReason.STOPPED_BY_USER, message, ended_at=time.time())
    last = next((line for line in reversed(_tail(folder / "driver.log")) if events.parse(line) is None), "")
    said = f"; its last words: {last[:200]}" if last else ""
    message = (
        f"the driver process ended without a word (killed, or the machine went down){said};"
        f" trainwright resume {status.run_id} goes on from the newest checkpoint"
    )
    return status.ended(RunState.FAILED, EndReason.DRIVER_LOST, message, ended_at=time.time())


def _clear(folder: Path, ray_dir: Path) -> None:
    """What a driver that could not clean up left: processes of its session, and Ray's files."""
    if not ray_dir.exists() or _process(folder) is not None:
        return
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # workers rename themselves, but inherit the path of the token
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if f"{ray_dir}/".encode() in words:
                    os.kill(int(entry.name), signal.SIGKILL)
    shutil.rmtree(ray_dir, ignore_errors=True)


def _events(log: Path) -> Iterator[dict[str, Any]]:
    for line in _tail(log, 512_000):
        if event := events.parse(line):
            yield event


def _tail(log: Path, size: int = 16_000) -> list[str]:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - size))
            return [
                line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()
            ]
    except OSError:
        return []


def _whole_lines(file: Path, start: int, *, at_end: bool) -> tuple[list[str], int]:
    """Lines from byte ``start``; a last line without its end waits for the rest, unless nothing more comes."""
    try:
        with file.open("rb") as opened:
            opened.seek(start)
            content = opened.read()
    except OSError:
        return [], start
    end = len(content) if at_end else content.rfind(b"\n") + 1
    return content[:end].decode(errors="replace").splitlines(), start + end


def _number(path: Path) -> int:
    return int(path.parent.name.rsplit("-", 1)[-1])
